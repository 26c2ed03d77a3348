"""The scripts, and what each is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .scripts import Script, load


@dataclass(frozen=True, slots=True)
class Binding:
    """A script and the names of what it is given, in order; the header of the script says the same (a test holds that).

    The last name of ``keys`` or ``args`` stands for as many as are left if it ends in "...".
    """

    script: Script
    keys: tuple[str, ...]
    args: tuple[str, ...]


#: The scripts of leases, which most stores never call.
LEASES: Final = frozenset({"acquire", "renew", "release"})

BINDINGS: Final = {
    name: Binding(load(name), keys, args)
    for name, keys, args in (
        (
            "update",
            ("session", "index"),
            (
                "member",
                "owner",
                "ttl_ms",
                "expected_version",
                "create",
                "since_version",
                "expires_at",
                "max_bytes",
                "modes",
                "named",
                "fields...",
            ),
        ),
        (
            "set",
            ("session", "index"),
            ("member", "owner", "ttl_ms", "expected_version", "created_at", "expires_at", "size", "fields..."),
        ),
        ("touch", ("session", "index"), ("member", "ttl_ms")),
        ("delete", ("session", "index"), ("member", "expected_version")),
        ("clear", ("index", "sessions..."), ("members...",)),
        ("acquire", ("lease",), ("token", "lease_ms")),
        ("renew", ("lease",), ("token", "lease_ms")),
        ("release", ("lease",), ("token",)),
    )
}
