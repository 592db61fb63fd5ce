"""Moments as people say and read them: "2027-01-01", "12h"; local time, unless an offset is given. Pure.

On the wire a moment is a number of Unix seconds, or, where a server tells one, ISO text.
"""

import re
from datetime import datetime
from typing import Final

from cloudverge_protocol.errors import Code, Refused

_DURATION: Final = re.compile(r"([0-9]{1,6})([smhdw])")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
EXPECTED: Final = "30m, 12h, 7d, 2027-01-01 or 2027-01-01T18:00"


def parse_when(text: str, now_s: float) -> int:
    """The moment that ``text`` means, in Unix seconds; a date is its first instant. Raises Refused."""
    duration = _DURATION.fullmatch(text.strip())
    try:
        if duration is not None:
            moment = now_s + int(duration[1]) * _UNIT_S[duration[2]]
        else:
            moment = datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise Refused(Code.INVALID, f"{text!r} is no time: {EXPECTED} is expected") from None
    if moment <= now_s:
        raise Refused(Code.INVALID, f"{text!r} is over already")
    return int(moment)


def seconds_of(told: float | str | None) -> float | None:
    """A moment that a server told, in Unix seconds."""
    if not isinstance(told, str):
        return told
    try:
        moment = datetime.fromisoformat(told)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.astimezone()).timestamp()


def show_when(told: float | str | None, never: str = "") -> str:
    """A moment that a server told, for people, in local time."""
    seconds = seconds_of(told)
    if seconds is None:
        return never if told is None else str(told)
    try:
        moment = datetime.fromtimestamp(seconds).astimezone()
    except (ValueError, OverflowError, OSError):
        return str(told)
    return f"{moment:%Y-%m-%d %H:%M}" if not moment.second else f"{moment:%Y-%m-%d %H:%M:%S}"
