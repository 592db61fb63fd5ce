"""Quotas as people say and read them: "10G", "500MiB", "none"; units are powers of 1024. Pure."""

import re
from typing import Final

from cloudverge_mount.progress import size_in_words
from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import ID_MAX

NONE: Final = 0  # on the wire: no quota
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_POWER: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse_size(text: str) -> int:
    """Bytes; raises Refused."""
    if text.strip().lower() == "none":
        return NONE
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * 1024 ** _POWER[match[2].lower()]) if match else 0
    if not 0 < size <= ID_MAX:
        raise Refused(Code.INVALID, f"{text!r} is no size: 500M, 10G, 2T or none is expected")
    return size


def parse_count(text: str) -> int:
    """A number of files; raises Refused."""
    if text.strip().lower() == "none":
        return NONE
    if not text.isdecimal() or not 0 < int(text) <= ID_MAX:
        raise Refused(Code.INVALID, f"{text!r} is no number of files: 100000 or none is expected")
    return int(text)


def quota_in_words(size_bytes: int, count: int) -> str:
    """A quota of bytes and of files, for people."""
    told = [size_in_words(size_bytes)] if size_bytes else []
    told += [f"{count} files"] if count else []
    return ", ".join(told) or "none"
