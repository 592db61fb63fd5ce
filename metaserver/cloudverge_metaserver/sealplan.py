"""The length at which a chunk is sealed, and who of its replicas stays. Pure.

D, what all replicas have receipted, is a promise that has been given: a seal is never below it, nor below the
end of any committed extent. Above that, whatever every server that can be reached proves to have is kept too,
since its writer may hold receipts it has not shown yet. A replica that does not reach the seal is dropped; it
never lowers it. If none reaches it the chunk is damaged, and nothing is decided until one does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cloudverge_protocol.ids import ServerId


@dataclass(frozen=True, slots=True)
class SealPlan:
    """``damaged``: no member reaches ``length``, all replicas are kept and asked again later."""

    length: int
    members: tuple[ServerId, ...]
    dropped: tuple[ServerId, ...]
    damaged: bool = False


def plan_seal(durable: int, committed_end: int, verified: Mapping[ServerId, int | None]) -> SealPlan:
    """The seal of a chunk whose replicas verify these lengths (None: cannot be reached)."""
    promised = max(durable, committed_end)
    reached = [length for length in verified.values() if length is not None]
    length = max([promised, min(reached)]) if reached else promised
    members = tuple(s for s, has in verified.items() if has is not None and has >= length)
    if not members:
        return SealPlan(promised, (), (), damaged=True)
    return SealPlan(length, members, tuple(s for s in verified if s not in members))
