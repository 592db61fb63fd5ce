"""A line in the log about a signed-in caller who says what no client of ours says: somebody is trying something.

Refusals that an honest client may meet are no news (``CloudVergeError.is_suspicious`` tells them apart). Of the others
one line a minute is written for each caller, request and code, with how often it has happened since the last one, and
so many lines a minute in all, so that nobody fills a disk with them.

Never logged: what the caller said. It could be a token, or somebody's file name.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import structlog

from cloudverge_protocol.errors import Code

EVERY_S: Final = 60.0
LINES_MAX: Final = 60  # in EVERY_S
KNOWN_MAX: Final = 1024
_FIELDS: Final = ("sub", "space", "session", "grant")

log = structlog.get_logger("cloudverge.wire")

Who = tuple[tuple[str, object], ...]


def name_of(identity: object) -> Who:
    """Who it is, as far as his ticket says."""
    return tuple((field, value) for field in _FIELDS if (value := getattr(identity, field, None)))


class Misconduct:
    """Counts, and writes a line now and then."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._noted: OrderedDict[object, tuple[float, int]] = (
            OrderedDict()
        )  # when a line was written, times since
        self._lines: tuple[float, int] = (float("-inf"), 0)  # since when, how many

    def note(self, identity: object, request: str, code: Code, **more: Any) -> None:  # noqa: ANN401  # fields of a log
        """It has happened (again)."""
        now_s, who = self._clock(), name_of(identity)
        key = (who, request, code)
        written_s, times = self._noted.pop(key, (float("-inf"), 0))
        if now_s - written_s < EVERY_S or not self._may_write(now_s):
            self._noted[key] = written_s, times + 1
        else:
            self._noted[key] = now_s, 0
            log.warning(
                "a caller says what no client of ours says",
                request=request, code=code.name, times=times + 1, **dict(who), **more,
            )  # fmt: skip
        if len(self._noted) > KNOWN_MAX:
            self._noted.popitem(last=False)

    def _may_write(self, now_s: float) -> bool:
        since_s, lines = self._lines
        if now_s - since_s >= EVERY_S:
            since_s, lines = now_s, 0
        self._lines = since_s, lines + 1
        return lines < LINES_MAX


misconduct: Final = Misconduct()
