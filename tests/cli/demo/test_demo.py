"""The demo: its conversations in memory, then the program itself, in a pipe and in a terminal."""

from __future__ import annotations

import asyncio
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from redis_botsession import MemorySessionStore
from redis_botsession.cli._terminal import printable
from redis_botsession.cli.demo import Author, Bot, Channel, Context, Message, Profile, make_bot
from redis_botsession.cli.demo.console import duration
from redis_botsession.cli.demo.loop import Loop
from redis_botsession.embedded import LocalServer

#: Seconds within which what must happen has happened, on the slowest machine.
PATIENCE = 60.0
HALF_AN_HOUR_MS = 30 * 60 * 1000
SESSION = "demo:session:{you}:console"
PROFILE = "demo:profile:you"
ONBOARDING = ("/onboard", "Ada", "ada@example.org")


# --- The conversations, without a terminal


class Users(dict[str, Profile]):
    """A database of users."""

    async def save_user(self, user_id: str, profile: Profile) -> None:
        self[user_id] = profile

    async def load_user(self, user_id: str) -> Profile | None:
        return self.get(user_id)


class Talk:
    """A user who talks to the bot; the store's clock can be put forward."""

    def __init__(self) -> None:
        self.later = 0.0
        self.users = Users()
        self.store = MemorySessionStore(clock=lambda: time.time() + self.later, cleanup_interval=None)
        self.bot: Bot = make_bot(self.store, self.users)

    async def say(self, *lines: str) -> str:
        """Says each line; gives the replies to the last one."""
        replies: list[str] = []

        async def send(text: str) -> None:
            replies.append(text)

        for line in lines:
            replies.clear()
            await self.bot.handle(Context(Message(Author("you"), line), Channel("console"), send))
        return "\n".join(replies)

    async def data(self) -> dict[str, Any] | None:
        session = await self.store.get("you", "console")
        return session.data if session else None


@pytest.fixture
def talk() -> Talk:
    return Talk()


async def test_demo_onboarding_keeps_the_name_and_the_email(talk: Talk) -> None:
    assert "Step 1/3: What is your name?" in await talk.say("/onboard")
    assert "Nice to meet you, Ada! Step 2/3" in await talk.say("Ada")
    reply = await talk.say("ada@example.org")
    assert "Step 3/3" in reply
    assert "Ada" in reply
    assert "ada@example.org" in reply
    assert await talk.data() == {"step": "confirm", "name": "Ada", "email": "ada@example.org"}
    assert "saved" in await talk.say("/confirm")
    assert talk.users == {"you": Profile("Ada", "ada@example.org")}
    assert await talk.data() is None
    assert "ada@example.org" in await talk.say("/profile")


@pytest.mark.parametrize("begin", ["/onboard", "/setup", "/SetUp"])
@pytest.mark.parametrize("confirm", ["/confirm", "/yes", "/ok"])
async def test_demo_aliases(talk: Talk, begin: str, confirm: str) -> None:
    await talk.say(begin, "Ada", "ada@example.org", confirm)
    assert "you" in talk.users


@pytest.mark.parametrize("said", [ONBOARDING[:1], ONBOARDING[:2], ONBOARDING])
async def test_demo_cancel_discards_everything_at_every_step(talk: Talk, said: Sequence[str]) -> None:
    assert "Cancelled" in await talk.say(*said, "/cancel")
    assert await talk.data() is None
    assert "No pending confirmation" in await talk.say("/confirm")
    assert not talk.users
    assert "nothing to cancel" in await talk.say("/cancel")


@pytest.mark.parametrize(
    ("said", "asked"), [(ONBOARDING[:1], "Step 1/3"), (ONBOARDING[:2], "Step 2/3"), (ONBOARDING, "Step 3/3")]
)
async def test_demo_start_and_a_restarted_bot_go_on_where_the_user_is(talk: Talk, said: Sequence[str], asked: str) -> None:
    await talk.say(*said)
    talk.bot = make_bot(talk.store, talk.users)
    reply = await talk.say("/start")
    assert "Welcome back" in reply
    assert asked in reply


async def test_demo_confirming_too_early_asks_again(talk: Talk) -> None:
    assert "Step 2/3" in await talk.say("/onboard", "Ada", "/confirm")
    assert not talk.users


async def test_demo_what_is_no_email_address_is_asked_for_again(talk: Talk) -> None:
    for nonsense in ("ada", "@", "ada@", "@example.org", "a da@example.org"):
        assert "Step 2/3" in await talk.say("/onboard", "Ada", nonsense)
    assert await talk.data() == {"step": "email", "name": "Ada"}


async def test_demo_text_at_the_last_step_is_no_answer(talk: Talk) -> None:
    assert "/confirm" in await talk.say(*ONBOARDING, "yes, please")
    assert not talk.users


async def test_commands_are_no_answers(talk: Talk) -> None:
    await talk.say("/onboard", "/help", "/nonsense", "/profile", "Ada")
    assert await talk.data() == {"step": "email", "name": "Ada"}


async def test_demo_onboarding_again_begins_anew(talk: Talk) -> None:
    assert "Step 1/3" in await talk.say(*ONBOARDING, "/onboard")
    assert await talk.data() == {"step": "name"}


async def test_demo_cart_lives_for_half_an_hour_after_its_last_change(talk: Talk) -> None:
    await talk.say("/cart add apple", "/cart add green pear", "/cart add apple")
    assert await talk.data() == {"cart": {"apple": 2, "green pear": 1}}
    assert "2 x apple" in await talk.say("/cart")
    talk.later = 31 * 60.0
    assert "empty" in await talk.say("/cart")
    assert await talk.data() is None


async def test_demo_onboarding_is_not_lost_with_the_cart(talk: Talk) -> None:
    await talk.say("/cart add apple", "/onboard", "Ada", "/cart add pear")
    talk.later = 31 * 60.0
    await talk.say("ada@example.org")
    assert await talk.data() == {
        "cart": {"apple": 1, "pear": 1},
        "step": "confirm",
        "name": "Ada",
        "email": "ada@example.org",
    }


@pytest.mark.parametrize("end", ["/confirm", "/cancel"])
async def test_demo_keeps_the_cart_when_onboarding_ends(talk: Talk, end: str) -> None:
    await talk.say("/cart add apple", *ONBOARDING, end)
    assert await talk.data() == {"cart": {"apple": 1}}
    talk.later = 31 * 60.0
    assert await talk.data() is None


async def test_demo_emptying_the_cart_leaves_what_else_is_in_the_session(talk: Talk) -> None:
    await talk.say("/cart add apple", "/cart clear")
    assert await talk.data() is None
    await talk.say("/onboard", "/cart add apple", "/cart clear")
    assert await talk.data() == {"step": "name"}


@pytest.mark.parametrize("line", ["/cart add", "/cart nonsense", "/cart clear all"])
async def test_demo_cart_command_with_a_mistake_is_explained_and_changes_nothing(talk: Talk, line: str) -> None:
    assert "/cart add apple" in await talk.say(line)
    assert await talk.data() is None


async def test_demo_help_lists_commands_and_aliases_and_explains_each(talk: Talk) -> None:
    listing = await talk.say("/help")
    for word in ("/start", "/onboard (/setup)", "/confirm (/yes, /ok)", "/cancel", "/cart", "/profile", "/help"):
        assert word in listing
    assert "Use /onboard to begin" in await talk.say("/help setup")
    assert "I do not know /nonsense" in await talk.say("/help /nonsense")


async def test_demo_what_the_bot_does_not_know_is_answered(talk: Talk) -> None:
    assert "/help" in await talk.say("hello")
    assert "Did you mean /confirm?" in await talk.say("/confrim")
    assert "/help" in await talk.say("/")
    assert await talk.data() is None


async def test_demo_session_that_ends_while_its_handler_runs_is_explained(talk: Talk) -> None:
    @talk.bot.command("late", description="Comes too late", help="Use it to be late")
    async def late(ctx: Context) -> None:
        await talk.store.delete("you", "console")
        await ctx.session.update({"name": "Ada"})

    assert "session has just ended" in await talk.say("/onboard", "/late")
    assert await talk.data() is None


async def test_demo_session_that_grows_too_large_is_explained(talk: Talk) -> None:
    assert "That did not work" in await talk.say("/onboard", "x" * talk.store.max_bytes)
    assert await talk.data() == {"step": "name"}


def test_demo_two_commands_cannot_have_one_name(talk: Talk) -> None:
    with pytest.raises(ValueError, match="/ok is a name of /confirm"):
        talk.bot.command("okay", aliases=["ok"], description="", help="")(lambda ctx: ctx.reply(""))


# --- The words on the screen


def test_demo_printable_escapes_what_a_terminal_would_obey() -> None:
    assert printable("Ada \x1b[31m\x07\x9b\r\n\t\u202e\ud800 [b]é 🤖") == (
        "Ada \\x1b[31m\\x07\\x9b\\r\\n\\t\\u202e\\ud800 [b]é 🤖"
    )


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (None, "none"),
        (0, "0 s"),
        (999, "0 s"),
        (59_999, "59 s"),
        (HALF_AN_HOUR_MS - 1, "29 min 59 s"),
        (86_400_000, "24 h 0 min 0 s"),
    ],
)
def test_demo_durations_are_rounded_down(ms: int | None, words: str) -> None:
    assert duration(ms) == words


# --- The program, in a pipe


def command(*args: str | Path) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "redis_botsession", "demo", *map(str, args)]


def environment(**changes: str) -> dict[str, str]:
    unwanted = {"REDIS_URL", "NO_COLOR", "COLUMNS", "LINES"}
    # What makes rich colour even a pipe.
    return {name: value for name, value in os.environ.items() if name not in unwanted} | {"FORCE_COLOR": "1"} | changes


def demo(*args: str | Path, lines: Sequence[str], **env: str) -> str:
    """Runs the demo on these lines; gives what it says."""
    run = subprocess.run(
        command(*args),
        input="".join(line + "\n" for line in lines),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(**env),
        timeout=PATIENCE,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def server_in(said: str) -> tuple[int, str]:
    """The pid and the URL that the demo tells of its server."""
    found = re.search(r"redis-server \(pid (\d+)\) at (\S+)", said)
    assert found, said
    return int(found[1]), found[2]


def end(process: subprocess.Popen[Any]) -> None:
    """Ends a demo that still runs; gently, since its server would outlive a kill."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()


@contextmanager
def running(*args: str | Path, **env: str) -> Iterator[subprocess.Popen[str]]:
    """The demo with its ends in our hands."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command(*args), stdin=pipe, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", env=environment(**env)
    )
    with process:
        try:
            yield process
        finally:
            end(process)


def say(process: subprocess.Popen[str], *lines: str) -> None:
    assert process.stdin
    process.stdin.write("".join(line + "\n" for line in lines))
    process.stdin.flush()


def hear(process: subprocess.Popen[str], expected: str) -> str:
    """Reads until a line has ``expected``; gives all that was read."""
    assert process.stdout
    heard = ""
    for line in process.stdout:
        heard += line
        if expected in line:
            return heard
    raise AssertionError(f"it ended without {expected!r}:\n{heard}")


@pytest.fixture
def redis_url() -> Iterator[str]:
    with LocalServer(tcp=True) as server:
        yield server.url


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as connected:
        yield connected


def test_demo_onboarding_from_a_pipe_saves_the_profile_and_says_so(tmp_path: Path) -> None:
    said = demo("--data", tmp_path, lines=[*ONBOARDING, "/confirm"])
    assert "Your profile has been saved: Ada, ada@example.org" in said
    assert "you> ada@example.org" in said
    assert "\x1b" not in said
    pid, _ = server_in(said)
    assert not is_running(pid)
    assert "Ada" in demo("--data", tmp_path, lines=["/profile"])


def test_demo_each_step_shows_what_is_stored(tmp_path: Path) -> None:
    said = demo("--data", tmp_path, lines=["/onboard", "Ada", "/cancel"])
    first, second, last = (f"you> {part}" for part in said.split("you> ")[1:])
    assert f"[{SESSION}]" in first
    assert re.search(r"new +step +'name'", first)
    assert re.search(r"version \d{16}, TTL 2[34] h", first)
    assert re.search(r"changed +step +'email'", second)
    assert re.search(r"new +name +'Ada'", second)
    assert "load; save step, name" in second
    assert re.search(r"removed +name +'Ada'", last)
    assert "nothing is stored" in last


def test_demo_stopped_in_the_middle_it_goes_on_where_it_was(tmp_path: Path) -> None:
    demo("--data", tmp_path, lines=["/onboard", "Ada"])
    said = demo("--data", tmp_path, lines=["ada@example.org", "/confirm"])
    greeting, _, rest = said.partition("you> ")
    assert "Welcome back. Step 2/3: What is your email?" in greeting
    assert re.search(r" {16}name  'Ada'\n", greeting), "nothing is new yet"
    assert "saved: Ada, ada@example.org" in rest


def test_demo_killed_in_the_middle_it_goes_on_where_it_was(tmp_path: Path) -> None:
    with running("--data", tmp_path) as process:
        say(process, "/onboard", "Ada")
        _, url = server_in(hear(process, "Step 2/3"))
        process.kill()
        process.wait(PATIENCE)
    try:
        said = demo("--data", tmp_path, lines=["ada@example.org", "/confirm"])
        assert "Welcome back. Step 2/3: What is your email?" in said
        assert "saved: Ada, ada@example.org" in said
        with redis.Redis.from_url(url) as left_behind, pytest.raises(redis.ConnectionError):
            left_behind.ping()
    finally:
        with redis.Redis.from_url(url) as left_behind, suppress(redis.RedisError):
            left_behind.shutdown()
        shutil.rmtree(Path(urlsplit(url).path).parent, ignore_errors=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_demo_signal_between_two_messages_is_not_lost(number: signal.Signals) -> None:
    with Loop() as loop:
        loop.has_begun = True
        # In the midst of other code it is not raised, where a destructor could swallow it, ...
        signal.raise_signal(number)
        # ... but where the user would be waited for.
        with pytest.raises(KeyboardInterrupt):
            loop.wait(lambda: pytest.fail("it waited"))
        assert loop.signal == number
        # What cleans up is not interrupted.
        assert loop.run(asyncio.sleep(0, "done")) == "done"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_demo_signal_ends_it_and_its_server(tmp_path: Path, number: signal.Signals) -> None:
    with running("--data", tmp_path) as process:
        say(process, "/onboard")
        pid, _ = server_in(hear(process, "Step 1/3"))
        process.send_signal(number)
        # stdin stays open: it is the signal that ends it, not the end of the input.
        assert process.wait(PATIENCE) == 128 + number
        assert process.stderr
        assert process.stderr.read() == ""
    assert not is_running(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_demo_signals_while_it_works_end_it_and_its_server_all_the_same(tmp_path: Path, number: signal.Signals) -> None:
    with running("--data", tmp_path) as process:
        say(process, *["/onboard", "Ada"] * 20)
        pid, _ = server_in(hear(process, "Step 2/3"))
        process.send_signal(number)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 128 + number
        assert process.stderr
        assert process.stderr.read() == ""
    assert not is_running(pid)


def test_demo_second_demo_on_the_same_data_says_why_it_cannot(tmp_path: Path) -> None:
    with running("--data", tmp_path) as first:
        hear(first, "Welcome")
        second = subprocess.run(command("--data", tmp_path), input="", capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert "in use" in second.stderr
        assert "--data" in second.stderr
        say(first, "/quit")
        assert first.wait(PATIENCE) == 0


def test_demo_data_are_kept_in_the_state_directory_unless_told_otherwise(tmp_path: Path) -> None:
    demo(lines=["/onboard"], XDG_STATE_HOME=str(tmp_path))
    assert any((tmp_path / "redis-botsession" / "demo").iterdir())
    demo(lines=["/onboard"], XDG_STATE_HOME="", HOME=str(tmp_path))
    assert any((tmp_path / ".local" / "state" / "redis-botsession" / "demo").iterdir())


def test_demo_data_that_cannot_be_kept_are_explained(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    run = subprocess.run(command("--data", in_the_way), input="", capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "--data" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("how", ["option", "environment"])
def test_demo_on_any_redis(redis_url: str, client: redis.Redis, how: str) -> None:
    lines = [*ONBOARDING, "/confirm", "/cart add apple"]
    said = demo("--url", redis_url, lines=lines) if how == "option" else demo(lines=lines, REDIS_URL=redis_url)
    assert f"Redis at {redis_url}" in said
    assert "pid" not in said
    assert client.hgetall(PROFILE) == {b"name": b"Ada", b"email": b"ada@example.org"}
    assert client.pttl(PROFILE) == -1
    assert b"cart" in client.hkeys(SESSION)
    assert 0 < client.pttl(SESSION) <= HALF_AN_HOUR_MS
    assert re.search(r"TTL (29 min \d+|30 min 0) s \(set by expires_at", said)


def test_demo_other_users_and_channels_have_sessions_of_their_own(redis_url: str, client: redis.Redis) -> None:
    for user, channel in (("1", "2:3"), ("1:2", "3"), ("*", "é\x1b")):
        demo("--url", redis_url, "--user", user, "--channel", channel, lines=[*ONBOARDING])
    found = set(client.scan_iter("demo:session:{*}:*"))
    assert found == {b"demo:session:{1}:2%3A3", b"demo:session:{1%3A2}:3", b"demo:session:{%2A}:%C3%A9%1B"}


def test_demo_password_of_a_redis_is_not_shown() -> None:
    with LocalServer(tcp=True, options=["--requirepass", "s3cret"]) as server:
        url = server.url.replace("redis://", "redis://:s3cret@")
        said = demo("--url", url, lines=["/onboard"])
        assert "Step 1/3" in said
        assert "s3cret" not in said
        wrong = subprocess.run(
            command("--url", url.replace("s3cret", "wr0ng")), input="", capture_output=True, text=True, check=False
        )
    assert wrong.returncode == 1
    assert len(wrong.stderr.splitlines()) == 1
    assert "wr0ng" not in wrong.stderr


def test_demo_redis_that_goes_away_is_explained() -> None:
    with LocalServer(tcp=True) as server, running("--url", server.url) as process:
        hear(process, "Welcome")
        server.stop()
        say(process, "/onboard")
        hear(process, "Redis: ")
        say(process, "/quit")
        _, problems = process.communicate(timeout=PATIENCE)
        assert (process.returncode, problems) == (1, "")


def test_demo_damaged_session_is_explained(redis_url: str, client: redis.Redis) -> None:
    client.hset(SESSION, "step", "nonsense")
    run = subprocess.run(command("--url", redis_url), input="/onboard\n", capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (1, "")
    assert f"That did not work: session {SESSION}" in run.stdout


def test_demo_without_a_server_it_runs_on_fakeredis_and_says_so() -> None:
    said = demo(lines=[*ONBOARDING, "/confirm"], BOTSESSION_REDIS_SERVER="/nonexistent")
    assert "Running on fakeredis" in said
    assert "/nonexistent" in said
    assert "saved: Ada, ada@example.org" in said


def test_demo_what_a_user_types_is_neither_markup_nor_control(tmp_path: Path) -> None:
    name = "[red]Ada[/red] :smile: \x1b[31m\x07 \u202e"
    said = demo("--data", tmp_path, lines=["/onboard", name, "/\x1bnonsense", "/cart add [/]\x1b"])
    assert set(said) - {"\n"} == {char for char in said if char.isprintable()}
    escaped = "[red]Ada[/red] :smile: \\x1b[31m\\x07 \\u202e"
    assert f"you> {escaped}" in said
    assert f"Nice to meet you, {escaped}!" in said
    assert f"'{escaped}'" in said
    assert "I do not know /\\x1bnonsense." in said


def test_demo_what_is_no_text_is_shown_all_the_same(tmp_path: Path) -> None:
    run = subprocess.run(
        command("--data", tmp_path),
        input=b"/onboard\nA\xffda\n",
        capture_output=True,
        env=environment(PYTHONIOENCODING="ascii"),
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, b"")
    assert b"Nice to meet you, A\\ufffdda!" in run.stdout


def test_demo_long_values_are_cut_on_the_screen_only(redis_url: str, client: redis.Redis) -> None:
    said = demo("--url", redis_url, lines=["/onboard", "x" * 5000, "/quit"])
    assert re.search(r"name +'x{100,300}\.\.\.\n", said)
    assert client.hstrlen(SESSION, "name") > 5000


# --- The program, in a terminal


class Terminal:
    """A pseudo-terminal of 80 columns with the demo in it."""

    def __init__(self, *args: str | Path, **env: str) -> None:
        self._ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, (50, 80))
        self.process = subprocess.Popen(
            command(*args),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(TERM="xterm-256color", **env),
            # So that Ctrl-C is a signal to it.
            preexec_fn=lambda: os.login_tty(theirs),
        )
        os.close(theirs)
        self.screen = b""
        self._waited_for = 0

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_for(self, expected: str) -> None:
        """Reads until ``expected`` has come, after what was waited for before."""
        while (found := plain(self.screen).find(expected, self._waited_for)) < 0:
            assert self._read(), f"it ended without {expected!r}:\n{plain(self.screen)}"
        self._waited_for = found + len(expected)

    def wait(self) -> int:
        """Reads to the end; gives the exit status."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def interrupt(self) -> int:
        """Presses Ctrl-C until the program ends, as a user would; gives its exit status."""
        # A signal that comes after readline has shown the prompt and before it waits for a key is seen at the next key.
        self.type("\x03")
        while not select.select([self._ours], [], [], 2)[0]:
            self.type("\x03")
        return self.wait()

    def close(self) -> None:
        end(self.process)
        os.close(self._ours)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._ours], [], [], PATIENCE)
        assert ready, f"nothing more came:\n{plain(self.screen)}"
        try:
            chunk = os.read(self._ours, 65536)
        except OSError:  # Linux gives EIO when the other side is closed.
            return False
        self.screen += chunk
        return bool(chunk)


def plain(screen: bytes) -> str:
    """The screen without colours and the like, so that text can be looked for."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.decode("utf-8", "replace"))


def test_demo_in_a_terminal_ctrl_c_leaves_cleanly(tmp_path: Path) -> None:
    with closing(Terminal("--data", tmp_path)) as terminal:
        terminal.wait_for("you> ")
        pid, _ = server_in(plain(terminal.screen))
        terminal.type("/onboard\n")
        terminal.wait_for("Step 1/3: What is your name?")
        terminal.wait_for("you> ")
        assert terminal.interrupt() in {0, 130}
        assert "Traceback" not in plain(terminal.screen)
        assert not is_running(pid)
    with closing(Terminal("--data", tmp_path)) as terminal:
        terminal.wait_for("Welcome back. Step 1/3")
        terminal.wait_for("you> ")
        terminal.type("\x04")
        assert terminal.wait() == 0


def test_demo_in_a_terminal_every_line_fits_and_is_coloured(tmp_path: Path) -> None:
    with closing(Terminal("--data", tmp_path)) as terminal:
        for line in ("/help", *ONBOARDING, "/cart add " + "apple " * 40, "/confirm", "/quit"):
            terminal.wait_for("you> ")
            terminal.type(line + "\n")
        assert terminal.wait() == 0
        said = [line for line in plain(terminal.screen).splitlines() if not line.startswith("you> ")]
        assert b"\x1b[" in terminal.screen
        assert any(SESSION in line for line in said)
        boxes = [line for line in said if line.startswith(("╭", "│", "╰"))]
        assert boxes
        assert {len(line) for line in boxes} == {80}


def test_demo_in_a_terminal_what_redis_holds_is_neither_markup_nor_control(redis_url: str, client: redis.Redis) -> None:
    client.hset(PROFILE, mapping={"name": "[red]Ada\x1b[2J", "email": "a\x07b"})
    with closing(Terminal("--url", redis_url)) as terminal:
        terminal.wait_for("you> ")
        terminal.type("/profile\n")
        terminal.wait_for("Email: a\\x07b")
        terminal.wait_for("you> ")
        terminal.type("/quit\n")
        assert terminal.wait() == 0
        assert "[red]Ada\\x1b[2J" in plain(terminal.screen)
        assert b"\x1b[2J" not in terminal.screen
        assert b"\x07" not in terminal.screen
