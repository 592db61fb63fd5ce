"""When to start a child, and when to start it again. Pure: standings and the time in, names out.

A child that was asked for waits until all it needs are ready. One that merely died is restarted with a
growing pause, and does not wait for a needed child for longer than ``PATIENCE_S``: a chunkserver can serve
reads while the metaserver is away.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from cloudverge_embedded.settings import Restart

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
PATIENCE_S = 10.0
PROVEN_AFTER_S = 30.0  # running this long forgives earlier failures


class Phase(enum.Enum):
    """Where one child stands."""

    DOWN = enum.auto()
    STARTING = enum.auto()
    READY = enum.auto()


@dataclass(frozen=True, slots=True)
class Standing:
    """What upkeep needs to know of one child."""

    name: str
    phase: Phase
    needs: tuple[str, ...] = ()
    requested: bool = False  # a person asked for it, and it has not been ready since
    due_s: float = 0.0  # not to be started earlier


def to_start(standings: Sequence[Standing], restart: Restart, now_s: float) -> list[str]:
    """The children to start now."""
    ready = {standing.name for standing in standings if standing.phase is Phase.READY}
    return [standing.name for standing in standings if _is_due(standing, ready, restart, now_s)]


def _is_due(standing: Standing, ready: set[str], restart: Restart, now_s: float) -> bool:
    if standing.phase is not Phase.DOWN or now_s < standing.due_s:
        return False
    waiting = not ready.issuperset(standing.needs)
    if standing.requested:
        return not waiting
    return restart is Restart.ALWAYS and (not waiting or now_s >= standing.due_s + PATIENCE_S)


def pause_s(failures: int) -> float:
    """How long to wait before the next start, after so many failures in a row (at least one)."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (min(failures, 20) - 1))
