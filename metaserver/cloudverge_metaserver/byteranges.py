"""Which part of a file a GET asks for: Range, If-Range, If-Match and If-None-Match of RFC 9110. Pure.

One range at most: a request for several, or one that cannot be understood, is answered with the whole, as the RFC
allows. Validators are strong: an inode's version is raised by whatever changes the file.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_RANGE: Final = re.compile(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """What to answer: a status, and the bytes [start, end) of the file (none with 304, 412 and 416)."""

    status: int
    start: int = 0
    end: int = 0


def etag_of(version: int) -> str:
    """The validator of a file's content at this version."""
    return f'"{version}"'


def asks_for_all(headers: Mapping[str, str]) -> bool:
    """Whether the answer is the whole file, whatever its size and version."""
    return not any(name in headers for name in ("range", "if-match", "if-none-match"))


def part_of(headers: Mapping[str, str], size: int, etag: str) -> Part:
    """What a request with these headers (names in lower case) gets of a file of ``size`` bytes."""
    if "if-match" in headers and not _names(headers["if-match"], etag, weak=False):
        return Part(412)
    if "if-none-match" in headers and _names(headers["if-none-match"], etag, weak=True):
        return Part(304)
    wanted = _RANGE.fullmatch(headers.get("range", ""))
    if wanted is None or headers.get("if-range", etag) != etag:
        return Part(200, 0, size)
    first, last = wanted.groups()
    if not first and not last:
        return Part(200, 0, size)
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return Part(200, 0, size)
    return Part(206, start, end) if start < end else Part(416)


def _names(listed: str, etag: str, *, weak: bool) -> bool:
    for each in listed.split(","):
        name = each.strip()
        if name == "*" or name == etag or (weak and name.removeprefix("W/") == etag):
            return True
    return False
