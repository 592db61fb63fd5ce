"""Two logs told as one: what was done to files (the metaserver's) and to rights (auth's). Pure.

Auth's log says in words what a change was about. Of changes to grants and links, those count that reach the path that
was asked for: their number is that of one that does, or the path they name is on the way to it or below it.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from cloudverge_mount.account.answers import Grant, Log, LogEntry
from cloudverge_mount.account.when import seconds_of

ABOUT_PARTS: Final = ("grant.", "token.", "link.")
_NAMED: Final = re.compile(r"(\d+): (.*)", re.DOTALL)
_AFTER_PATH: Final = ("", " to ", " for ", ", ")


class Line(msgspec.Struct, frozen=True):
    """One thing that was done. ``log``: files or rights."""

    log: str
    at: float | None
    user: str
    device: str
    action: str
    path: str
    detail: str
    seq: int
    hash: str


def merged(files: Log, rights: Log, path: str, reaching: Iterable[Grant], limit: int) -> list[Line]:
    """The newest ``limit`` lines of both, newest first."""
    numbers = {grant.id for grant in reaching}
    lines = [_line("files", entry) for entry in files.entries]
    lines += [_line("rights", entry) for entry in rights.entries if concerns(entry, path, numbers)]
    return sorted(lines, key=lambda line: line.at or 0.0, reverse=True)[:limit]


def concerns(entry: LogEntry, path: str, numbers: Iterable[int]) -> bool:
    """Whether a change to rights is one to the rights on ``path``."""
    if not entry.action.startswith(ABOUT_PARTS):
        return True  # members, roles, quotas: the whole space
    named = _NAMED.fullmatch(str(entry.detail))
    if path == "/" or named is None or int(named[1]) in numbers:
        return True
    return any(_names(named[2], each) for each in _way_to(path)) or named[2].startswith(f"{path}/")


def _way_to(path: str) -> Sequence[str]:
    """The path and all folders above it."""
    parts = [part for part in path.split("/") if part]
    return ["/", *("/".join(parts[:count]) for count in range(1, len(parts) + 1))]


def _names(text: str, path: str) -> bool:
    return text.startswith(path) and any(
        text[len(path) :].startswith(after) if after else text == path for after in _AFTER_PATH
    )


def _line(log: str, entry: LogEntry) -> Line:
    return Line(
        log,
        seconds_of(entry.at),
        entry.user,
        entry.device,
        entry.action,
        entry.path,
        entry.detail if isinstance(entry.detail, str) else msgspec.json.encode(entry.detail).decode(),
        entry.seq,
        entry.hash,
    )
