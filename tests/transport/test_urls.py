"""What is read of a Redis URL."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from redis_botsession import SessionStore
from redis_botsession._transport.options import Target, read_url

#: A URL of each scheme, with a place for user and password.
SCHEMES = {
    "redis": "redis://{}127.0.0.1:7000/0",
    "rediss": "rediss://{}127.0.0.1:7000/0",
    "unix": "unix://{}/run/redis.sock?db=0",
    "redis+cluster": "redis+cluster://{}127.0.0.1:7000,127.0.0.1:7001/",
    "rediss+cluster": "rediss+cluster://{}127.0.0.1:7000,127.0.0.1:7001/",
    "redis+sentinel": "redis+sentinel://{}127.0.0.1:7000,127.0.0.1:7001/bots/0",
    "rediss+sentinel": "rediss+sentinel://{}127.0.0.1:7000,127.0.0.1:7001/bots/0",
}
every_scheme = pytest.mark.parametrize("template", SCHEMES.values(), ids=SCHEMES)

printable = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://", {}),
        ("redis://bots.example", {"host": "bots.example"}),
        ("redis://bots.example/", {"host": "bots.example"}),
        ("redis://bots.example:7000/3", {"host": "bots.example", "port": 7000, "db": 3}),
        ("redis://bots.example/3/\n", {"host": "bots.example", "db": 3}),
        ("redis://bots.example?db=3", {"host": "bots.example", "db": 3}),
        ("redis://bots.example/2?db=3", {"host": "bots.example", "db": 3}),
        ("redis://[::1]:7000", {"host": "::1", "port": 7000}),
        ("rediss://[::1]/3", {"host": "::1", "db": 3, "connection_class": SSLConnection}),
        ("unix:///run/redis.sock", {"path": "/run/redis.sock", "connection_class": UnixDomainSocketConnection}),
        ("unix:///run/a%40b@c?db=3", {"path": "/run/a@b@c", "db": 3, "connection_class": UnixDomainSocketConnection}),
        (
            "redis://h?timeout=3&protocol=3&socket_timeout=1.5",
            {"host": "h", "timeout": 3.0, "protocol": 3, "socket_timeout": 1.5},
        ),
        ("rediss://h?ssl_certfile=%2Fa%2Fb", {"host": "h", "ssl_certfile": "/a/b", "connection_class": SSLConnection}),
    ],
)
def test_read_url_of_one_server(url: str, options: dict[str, Any]) -> None:
    assert read_url(url) == Target("server", options)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize(
    ("rest", "kind", "seeds", "service", "options"),
    [
        ("+cluster://a", "cluster", [("a", 6379)], "", {}),
        ("+cluster://a:7000,b/", "cluster", [("a", 7000), ("b", 6379)], "", {}),
        ("+cluster://[::1]:7000,[fe80::1]/", "cluster", [("::1", 7000), ("fe80::1", 6379)], "", {}),
        ("+cluster://a,b?timeout=3", "cluster", [("a", 6379), ("b", 6379)], "", {"timeout": 3.0}),
        ("+sentinel://a/bots", "sentinel", [("a", 26379)], "bots", {}),
        ("+sentinel://a:7000,b,c:7002/bots/\n", "sentinel", [("a", 7000), ("b", 26379), ("c", 7002)], "bots", {}),
        ("+sentinel://[::1]:7000,[::1]/bots/3", "sentinel", [("::1", 7000), ("::1", 26379)], "bots", {"db": 3}),
        ("+sentinel://a/bots?db=3", "sentinel", [("a", 26379)], "bots", {"db": 3}),
        ("+sentinel://a/bots/2?db=3", "sentinel", [("a", 26379)], "bots", {"db": 3}),
        (
            "+sentinel://a,b/bots?sentinel_username=watch&sentinel_password=s%403%2F&max_connections=2",
            "sentinel",
            [("a", 26379), ("b", 26379)],
            "bots",
            {"sentinel_username": "watch", "sentinel_password": "s@3/", "max_connections": 2},
        ),
    ],
)
def test_read_url_of_many_servers(
    scheme: str, rest: str, kind: str, seeds: list[tuple[str, int]], service: str, options: dict[str, Any]
) -> None:
    tls = {"connection_class": SSLConnection} if scheme == "rediss" else {}
    assert read_url(scheme + rest) == Target(kind, {**options, **tls}, tuple(seeds), service)


@every_scheme
async def test_read_url_options_win(template: str) -> None:
    url = template.format("")
    url += ("&" if "?" in url else "?") + "timeout=none"
    with pytest.raises(ValueError, match="Invalid value for 'timeout'"):
        SessionStore.from_url(url, timeout=3)
    # It says so only of what it has taken.
    with pytest.raises(ValueError, match="max_in_flight must be a positive int, not '0'"):
        SessionStore.from_url(url.replace("timeout=none", "max_in_flight=0"), max_in_flight=7)


@every_scheme
@pytest.mark.parametrize(
    ("user", "options"),
    [
        ("ada@", {"username": "ada"}),
        (":pass@", {"password": "pass"}),
        ("ada:@", {"username": "ada"}),
        ("%41da%20L:p%61ss@", {"username": "Ada L", "password": "pass"}),
        ("ada%3A%2F%40:%25%2F%40%3A%3F%23%2C%5B%0A@", {"username": "ada:/@", "password": "%/@:?#,[\n"}),
        # No need to encode these.
        ("ada:p@ss:100%,+&=@", {"username": "ada", "password": "p@ss:100%,+&="}),
    ],
)
def test_from_url_uses_credentials(template: str, user: str, options: dict[str, str]) -> None:
    found = read_url(template.format(user)).options
    assert {name: found[name] for name in ("username", "password") if name in found} == options


@every_scheme
@given(user=printable, password=printable)
@example("a:b@c", "%2F/?#@:[]%,")
def test_read_url_keeps_any_user_and_password(template: str, user: str, password: str) -> None:
    target = read_url(template.format(f"{quote(user, safe='')}:{quote(password, safe='')}@"))
    assert target == Target(
        target.kind,
        {**read_url(template.format("")).options, "username": user, "password": password},
        read_url(template.format("")).seeds,
        read_url(template.format("")).service,
    )


@every_scheme
@given(st.text(st.sampled_from("7x/:@#?[]%&=,"), max_size=6).map(lambda text: f"{text}hidden"))
@example("7000/hidden")
@example("7000?hidden")
@example("7000#hidden")
@example("7000?db=hidden")
@example("7000?timeout=hidden")
@example("a@7000/hidden")
@example("a@b,7000/hidden")
@example("[hidden")
@example("[hidden]")
def test_read_url_never_shows_an_unencoded_password(template: str, password: str) -> None:
    """Never as a host, port, database, path or option: those get shown."""
    plain = read_url(template.format(""))
    try:
        target = read_url(template.format(f":{password}@"))
    except ValueError as error:
        assert_hidden(error, password)
        told = str(error)
    else:
        options = dict(target.options)
        # A % before two digits may or may not be meant as an escape.
        assert "hidden" in options.pop("password")
        assert Target(target.kind, options, target.seeds, target.service) == plain
        told = repr(target)
        assert "hidden" not in told
    assert told.startswith("Target(") or re.search(r"percent-encoded|Percent-encode", told)


def assert_hidden(error: BaseException, password: str) -> None:
    """No message has it, nor has one of the errors before it."""
    chain: BaseException | None = error
    while chain is not None:
        assert "hidden" not in f"{chain} {chain!r}"
        assert password not in f"{chain} {chain!r}"
        chain = chain.__cause__ or chain.__context__


@pytest.mark.parametrize("user", ["", "ada:hidden@"])
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://{}h:port", "cannot be read.*port"),
        ("redis://{}h:65536/0", "cannot be read.*port"),
        ("redis://{}h:-1/0", "cannot be read.*port"),
        ("redis://{}[::1", "cannot be read.*brackets"),
        ("redis://{}[h]", "cannot be read"),
        ("redis:/{}h", "cannot be read.*://"),
        ("redis://{}h/bots", "cannot be read.*database"),
        # Not database 12.
        ("redis://{}h/1/2", "cannot be read.*database"),
        ("redis://{}h?db=bots", "Invalid value for 'db'"),
        ("redis://{}h/0#1", "cannot be read.*# as %23"),
        ("unix://{}run/redis.sock", "unix:///path"),
        ("unix://{}", "unix:///path"),
        ("redis+cluster://{}h:port/", "cannot be read.*port"),
        ("redis+cluster://{}h,h:port/", "cannot be read.*port"),
        ("redis+cluster://{}h/bots", "cannot be read.*database"),
        ("redis+cluster://{}h/1", "one database only"),
        ("redis+cluster://{}h/?db=1", "one database only"),
        ("redis+cluster://{}h/?client_name=a@b", "cannot be read.*@ as %40"),
        ("redis+cluster://{}", "names hosts"),
        ("redis+cluster://{}/", "names hosts"),
        ("redis+cluster://{}h,/", "names hosts"),
        ("redis+cluster://{},h/", "names hosts"),
        ("redis+cluster://{}:7000/", "names hosts"),
        ("redis+sentinel://{}h", "name of the service"),
        ("redis+sentinel://{}h/", "name of the service"),
        ("redis+sentinel://{}h/?db=3", "name of the service"),
        ("redis+sentinel://{}h,/bots", "names hosts"),
        ("redis+sentinel://{}h:port/bots", "cannot be read.*port"),
        ("redis+sentinel://{}h/bots/x", "cannot be read.*database"),
        ("http://{}h", r"scheme.*redis\+cluster"),
        ("redis+nodes://{}h", r"scheme.*redis\+sentinel"),
        ("unix+cluster://{}/run/redis.sock", "scheme"),
        ("{}h:6379", "scheme"),
        ("", "scheme"),
    ],
)
def test_read_url_refuses_other_urls_with_one_cause(url: str, user: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        SessionStore.from_url(url.format(user))
    assert_hidden(caught.value, "hidden")
    # The one cause, not a list to choose from.
    assert (
        len([word for word in ("port behind", "database at", "percent-encoded in", "brackets,") if word in str(caught.value)])
        < 2
    )


def test_from_url_refuses_a_database_of_a_cluster() -> None:
    with pytest.raises(ValueError, match="one database only"):
        SessionStore.from_url("redis+cluster://h/", db=1)
    SessionStore.from_url("redis+cluster://h/0", db=0)


@pytest.mark.parametrize("url", [b"redis://:hidden@h", None, 6379, ["redis://:hidden@h"]])
def test_read_url_refuses_other_types(url: Any) -> None:
    with pytest.raises(TypeError, match=rf"must be str, not {type(url).__name__}") as caught:
        SessionStore.from_url(url)
    assert_hidden(caught.value, "hidden")
