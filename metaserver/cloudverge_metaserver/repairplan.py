"""What a sealed chunk needs to be whole again. Pure.

Good members count if their server is not lost (silent for long). Too few: members with bad blocks are mended
where they are, replicas that a seal left out are taken back if they turn out to be whole, and what is still
missing is copied to new servers. Enough: what is stale, or too many, may go once the others have been verified.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cloudverge_metaserver.durability import ReplicaState
from cloudverge_metaserver.placement import ServerState, choose
from cloudverge_protocol.ids import BLOCK_BYTES, ChunkId, Epoch, ServerId, SpaceId

_WELL = (ReplicaState.GOOD, ReplicaState.UNTOLD)


@dataclass(frozen=True, slots=True)
class SealedChunk:
    """A sealed chunk and its replicas."""

    chunk: ChunkId
    space: SpaceId
    epoch: Epoch
    length: int
    wanted: int
    replicas: Mapping[ServerId, ReplicaState]


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """In the order in which it is to be done; each list may be empty."""

    chunk: SealedChunk
    sources: tuple[
        ServerState, ...
    ]  # replicas that answer, the best first; a copy takes the good blocks of any
    mend: tuple[ServerState, ...]  # members with bad blocks: fetch those anew
    take_back: tuple[ServerState, ...]  # stale replicas that may be whole
    copy_to: tuple[ServerState, ...]  # servers for what is still missing then
    surplus: tuple[ServerId, ...]  # to be removed once the others are verified
    copies: int  # good members now


def plan_repair(
    chunk: SealedChunk,
    servers: Mapping[ServerId, ServerState],
    lost: Callable[[ServerId], bool],
    random: Callable[[], float],
) -> RepairPlan:
    """What to do for ``chunk`` now."""

    def answering(*states: ReplicaState) -> tuple[ServerState, ...]:
        held = (servers[s] for s, state in chunk.replicas.items() if state in states and s in servers)
        return tuple(server for server in held if not server.silent)

    good = [s for s, state in chunk.replicas.items() if state in _WELL and not lost(s)]
    well, bad, stale = answering(*_WELL), answering(ReplicaState.BAD), answering(ReplicaState.STALE)
    missing = chunk.wanted - len(good)
    if missing <= 0:
        return RepairPlan(chunk, well, (), (), (), _surplus(chunk, well, lost), len(good))
    fresh = [
        s
        for s in servers.values()
        if s.takes_more and s.server not in chunk.replicas and s.free_bytes >= chunk.length + BLOCK_BYTES
    ]
    chosen = choose(fresh, missing, [servers[s] for s in good if s in servers], random)
    sources = (*well, *bad, *stale)
    copy_to = tuple([*chosen, *stale][:missing]) if sources else ()
    return RepairPlan(chunk, sources, bad, stale, copy_to, (), len(good))


def _surplus(
    chunk: SealedChunk, well: Sequence[ServerState], lost: Callable[[ServerId], bool]
) -> tuple[ServerId, ...]:
    """Replicas that are bad, stale or on a lost server, and good ones beyond R (the fullest servers' first)."""
    useless = [s for s, state in chunk.replicas.items() if state not in _WELL or lost(s)]
    extra = max(0, len(well) - chunk.wanted)
    fullest = sorted(well, key=lambda s: (s.free_bytes, s.server))
    return (*useless, *(s.server for s in fullest[:extra]))


def is_idle(plan: RepairPlan) -> bool:
    """Whether there is nothing that can be done now."""
    return not (plan.mend or plan.take_back or plan.copy_to or plan.surplus)


def by_urgency(plans: Sequence[RepairPlan]) -> list[RepairPlan]:
    """Fewest copies first."""
    return sorted(plans, key=lambda plan: (plan.copies, plan.chunk.chunk))
