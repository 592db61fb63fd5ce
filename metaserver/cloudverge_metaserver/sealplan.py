"""The length at which a chunk is sealed, and who of its replicas stays. Pure.

D, what all replicas have receipted, is a promise that has been given: a seal is never below it, nor below the
end of any committed extent. Above that, whatever every server that can be reached proves to have is kept too,
since its writer may hold receipts it has not shown yet. What a damaged replica can still prove says nothing
about that, so it does not lower the seal while another is sound; with none sound, the most that one proves is
kept. A replica that does not reach the seal is dropped. If none reaches it the chunk is damaged, and nothing is
decided until one does.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cloudverge_protocol.ids import ServerId


@dataclass(frozen=True, slots=True)
class SealPlan:
    """``damaged``: no member reaches ``length``, all replicas are kept and asked again later."""

    length: int
    members: tuple[ServerId, ...]
    dropped: tuple[ServerId, ...]
    damaged: bool = False


def plan_seal(
    durable: int,
    committed_end: int,
    verified: Mapping[ServerId, int | None],
    damaged: Collection[ServerId] = (),
) -> SealPlan:
    """The seal of a chunk whose replicas verify these lengths (None: cannot be reached)."""
    promised = max(durable, committed_end)
    reached = {server: length for server, length in verified.items() if length is not None}
    sound = [length for server, length in reached.items() if server not in damaged]
    length = max(promised, min(sound) if sound else max(reached.values(), default=0))
    members = tuple(s for s, has in verified.items() if has is not None and has >= length)
    if not members:
        return SealPlan(promised, (), (), damaged=True)
    return SealPlan(length, members, tuple(s for s in verified if s not in members))
