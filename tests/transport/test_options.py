"""The options of from_url: for an editor and a type checker, and in a URL."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from redis_botsession import SessionStore, sync
from redis_botsession._transport.options import ConnectionOptions, Options, StoreOptions, SyncStoreOptions

STORES: dict[str, Any] = {"asyncio": SessionStore, "threads": sync.SessionStore}
USES = """
from redis_botsession import Codec, SessionStore, sync
from redis_botsession.adapters import aiogram, microsoft_agents, telebot, telegram

SessionStore.from_url("redis://", ttl=None, codec=Codec(), timeout=2, socket_timeout=None, ssl_ca_certs="ca.pem")
SessionStore.from_url("redis+cluster://h", address_remap=lambda address: address, replicas=1, fsync=True)
sync.SessionStore.from_url("redis://", prefix="p:", max_connections=8, sentinel_password="s", username="u")
aiogram.BotSessionStorage.from_url("redis://", prefix="p:", ttl=60)
aiogram.BotSessionIsolation.from_url("redis://", lease=10, timeout=2)
telebot.AsyncBotSessionStorage.from_url("redis://", timeout=2)
telebot.BotSessionStorage.from_url("redis://", max_connections=8)
telegram.BotSessionPersistence.from_url("redis://", bot_id=7, ttl=None, preload=False)
microsoft_agents.BotSessionStorage.from_url("redis://", on_conflict="raise", ttl=60)
# From here on, each line is wrong.
aiogram.BotSessionStorage.from_url("redis://", state_ttl=60)
aiogram.BotSessionIsolation.from_url("redis://", lock_kwargs={})
telebot.AsyncBotSessionStorage.from_url("redis://", redis_url="x")
telebot.BotSessionStorage.from_url("redis://", timeout=2)
telegram.BotSessionPersistence.from_url("redis://", ttl="60")
microsoft_agents.BotSessionStorage.from_url("redis://", on_conflict="never")
SessionStore.from_url("redis://", timeuot=2)
SessionStore.from_url("redis://", replicas="1")
SessionStore.from_url("redis://", prefix=None)
SessionStore.from_url("redis://", socket_timeout="5")
sync.SessionStore.from_url("redis://", max_in_flight=8)
"""


def test_from_url_is_checked_by_mypy(tmp_path: Path) -> None:
    uses = tmp_path / "uses.py"
    uses.write_text(USES)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", uses.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    refused = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    lines = USES.splitlines()
    first = next(n for n, line in enumerate(lines, 1) if line.startswith("#"))
    assert refused == set(range(first + 1, len(lines) + 1)), done.stdout + done.stderr


def test_options_and_typed_dicts_agree() -> None:
    assert get_type_hints(StoreOptions).keys() - get_type_hints(ConnectionOptions).keys() == Options.names
    hints = get_type_hints(StoreOptions)
    assert {each.name: get_type_hints(Options)[each.name] for each in fields(Options) if each.name in Options.names} == {
        name: hints[name] for name in Options.names
    }
    assert get_type_hints(StoreOptions).keys() - get_type_hints(SyncStoreOptions).keys() == {
        "timeout",
        "max_in_flight",
        "address_remap",
    }


def test_connection_options_are_known_to_redispy() -> None:
    some: dict[str, Any] = dict.fromkeys(get_type_hints(ConnectionOptions))
    given = {**some, "db": 0, "protocol": 2, "ssl_cert_reqs": "none", "health_check_interval": 0}
    options = Options.parse("rediss://localhost", given)
    assert options.connection_options.keys() >= some.keys()


@pytest.mark.parametrize("kind", STORES)
def test_from_url_takes_other_options_of_redispy(kind: str) -> None:
    others: Any = {"socket_read_size": 4096, "client_name": "bot"}
    STORES[kind].from_url("redis://localhost", **others)
    STORES[kind].from_url("redis://localhost?encoding=ascii")


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("name", ["no_such_option", "sentinel_username"])
def test_from_url_refuses_unknown_options(kind: str, name: str) -> None:
    wrong: Any = {name: "x"}
    with pytest.raises(TypeError, match=f"no option '{name}'"):
        STORES[kind].from_url("redis://localhost", **wrong)
    with pytest.raises(TypeError, match=f"no option '{name}'"):
        STORES[kind].from_url(f"redis://localhost?{name}=x")


@pytest.mark.parametrize("name", ["prefix", "ttl", "codec", "max_bytes", "address_remap"])
def test_url_options_are_about_connections_only(name: str) -> None:
    for kind in STORES.values():
        with pytest.raises(TypeError, match=f"no option '{name}'"):
            kind.from_url(f"redis://localhost?{name}=x")


@pytest.mark.parametrize("name", ["timeout", "max_in_flight"])
def test_sync_from_url_refuses_options_of_asyncio(name: str) -> None:
    wrong: Any = {name: 1}
    with pytest.raises(TypeError, match=f"no option '{name}'"):
        sync.SessionStore.from_url("redis://localhost", **wrong)


def test_options_in_the_url_are_converted() -> None:
    url = "redis://h?replicas=2&fsync=yes&wait_timeout=0.5&timeout=3&max_connections=2&max_in_flight=9&socket_timeout=2"
    options = Options.parse(url, {"timeout": 7, "replicas": 1})
    assert (options.replicas, options.fsync, options.wait_timeout) == (2, True, 0.5)
    assert (options.timeout, options.max_connections, options.max_in_flight, options.silence) == (3.0, 2, 9, 2.0)
    options = Options.parse_for_threads("redis://h?replicas=2&fsync=no&wait_timeout=0.5&max_connections=3", {})
    assert (options.replicas, options.fsync, options.wait_timeout, options.max_connections) == (2, False, 0.5, 3)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("wait_timeout=soon", "wait_timeout must be a positive float"),
        ("max_connections=0", "max_connections must"),
        ("replicas=x", "replicas must not"),
    ],
)
def test_options_in_the_url_are_checked(option: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options.parse(f"redis://h?{option}", {})


def test_options_show_no_password() -> None:
    options = Options.parse("redis+sentinel://u:hidden@h/bots", {"sentinel_password": "hidden", "sentinel_username": "s"})
    assert "hidden" not in repr(options)
    assert options.sentinel_options == {"username": "s", "password": "hidden", "ssl": False}
