"""Where a migration goes on after it was interrupted.

It need not know: a session that is in the target is not written again, so starting from the beginning does no harm. The file
saves the time for what was looked at before. A cursor of SCAN stays good while the server lives, whatever happens to its keys.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .tally import Tally

_FORMAT: Final = 1


class NotResumable(ValueError):
    """The file belongs to another migration, or is no resume file."""


@dataclass(slots=True)
class Place:
    """How far a migration is.

    Attributes:
        cursor: For the next SCAN; 0: from the beginning.
        scanned: How many keys SCAN has looked at.
        tally: What was done.
    """

    cursor: int = 0
    scanned: int = 0
    tally: Tally = field(default_factory=Tally)


class ResumeFile:
    """Keeps the place in a file, which exists as long as the migration is not complete.

    Args:
        path: The file; None: nothing is kept.
        what: The arguments that identify this migration.
    """

    def __init__(self, path: Path | None, what: Mapping[str, Any]) -> None:
        self._path = path
        self._what = dict(what)
        self.server = ""

    def load(self, server: str) -> tuple[Place, str]:
        """Reads the place to go on from, with a note for the user. Without a file, or after a restart, it is the beginning.

        Args:
            server: The run id of the server; "" if it does not report one.

        Raises:
            NotResumable: the file is not of this migration.
            OSError: it cannot be read.
        """
        self.server = server
        if self._path is not None and not os.access(self._path.parent, os.W_OK):
            raise NotResumable("there is no such directory, or nothing can be written there")
        if self._path is None or not self._path.exists():
            return Place(), ""
        try:
            kept = json.loads(self._path.read_text("utf-8"))
            if kept["format"] != _FORMAT:
                raise NotResumable("it was written by another version of this package")
            if kept["what"] != self._what:
                names = sorted(name for name in self._what if kept["what"].get(name) != self._what[name])
                raise NotResumable(f"it is of a migration with another {', '.join(names)}")
            place = Place(int(kept["cursor"]), int(kept["scanned"]), Tally.from_dict(kept["tally"]))
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError):
            raise NotResumable("it is no file of botsession migrate") from None
        if not server or kept["server"] != server:
            return (
                Place(),
                f"{self._path} is of a server that was restarted since, or does not report its run id: from the beginning",
            )
        return place, f"going on after {place.tally.seen:,}"

    def save(self, place: Place) -> None:
        """Saves the place. The file is replaced as a whole, or not at all.

        Raises:
            OSError: it cannot be written.
        """
        if self._path is None:
            return
        kept = {
            "format": _FORMAT,
            "what": self._what,
            "server": self.server,
            "cursor": place.cursor,
            "scanned": place.scanned,
            "tally": place.tally.as_dict(),
        }
        beside = self._path.with_name(f"{self._path.name}.new")
        # Private, since keys contain the ids of users.
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(kept, file)
        beside.replace(self._path)

    def done(self) -> None:
        """Removes the file, so that the next migration starts from the beginning.

        Raises:
            OSError: it cannot be removed.
        """
        if self._path is not None:
            self._path.unlink(missing_ok=True)
