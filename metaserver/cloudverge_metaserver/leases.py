"""Leases: who is the active mount of a space, and who may become it. Pure.

Times are seconds on PostgreSQL's clock. A lease that has run out is taken over only when the holder had every
chance to renew it: the database and this server must have answered without a break for one whole lease.
"""

import math
from dataclasses import dataclass

from cloudverge_protocol.errors import Code, Denied
from cloudverge_protocol.ids import Incarnation, SessionId

RETRY_AT_LEAST_S = 0.5


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as it stands; ``left_s`` is negative once it has run out."""

    session: SessionId
    incarnation: Incarnation
    device_name: str
    left_s: float


def wait_to_open(held: Held | None, session: SessionId, steady_s: float, lease_s: float) -> float:
    """How long ``session`` must wait before it may have the lease; 0: it may have it now.

    ``steady_s`` is for how long renewals could have been made.
    """
    if held is None or held.session == session:
        return 0.0
    return max(0.0, held.left_s, lease_s - steady_s)


def in_use(held: Held, wait_s: float) -> Denied:
    """The answer to a mount that must wait, for people to read."""
    seconds = max(1, math.ceil(wait_s))
    error = Denied(
        Code.SPACE_IN_USE,
        f"this space is in use on the device '{held.device_name}': unmount it there. "
        f"If that device is gone, the space is free in {seconds} s at the latest.",
    )
    error.retry_after_s = max(RETRY_AT_LEAST_S, wait_s)
    return error
