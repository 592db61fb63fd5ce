"""Where a new replica goes. Pure: a snapshot of the servers and randomness are passed in.

Full, draining and silent servers are left out, and so are those the caller has just been failed by, as long as
there are enough others. Among the rest the choice is by chance, weighted by free space and by how many chunks
are open there already, each further replica on a host (then a rack) that has none yet, where there is one.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cloudverge_protocol.errors import Code, NoRoom, Unavailable
from cloudverge_protocol.ids import BLOCK_BYTES, CHUNK_BYTES, ServerId
from cloudverge_protocol.messages import Place

CHUNK_AT_LEAST_BYTES: Final = 1024 * 1024  # a smaller promise is not worth a chunk


@dataclass(frozen=True, slots=True)
class ServerState:
    """A chunkserver as it is known now; ``free_bytes`` less what was promised since it said so."""

    server: ServerId
    host: str
    port: int
    rack: str
    free_bytes: int
    open_chunks: int = 0
    full: bool = False
    draining: bool = False
    silent: bool = False

    @property
    def place(self) -> Place:
        """Its address."""
        return Place(self.server, self.host, self.port)

    @property
    def takes_more(self) -> bool:
        """Whether anything new may be put there."""
        return not (self.full or self.draining or self.silent)


@dataclass(frozen=True, slots=True)
class Placement:
    """The servers of a new chunk, in the order of its chain, and how far it may grow on all of them."""

    servers: tuple[ServerState, ...]
    limit: int


def place_chunk(
    servers: Sequence[ServerState],
    replicas: int,
    avoid: Collection[ServerId],
    random: Callable[[], float],
    most_bytes: int = CHUNK_BYTES,
) -> Placement:
    """Where a chunk of ``replicas`` copies goes; raises Unavailable or NoRoom if there are too few servers."""
    alive = [s for s in servers if not s.silent]
    if len(alive) < replicas:
        raise Unavailable(
            Code.UNAVAILABLE, f"{replicas} chunkservers are needed, {len(alive)} of {len(servers)} answer"
        )
    roomy = [s for s in alive if s.takes_more and s.free_bytes >= CHUNK_AT_LEAST_BYTES]
    if len(roomy) < replicas:
        raise NoRoom(
            Code.NO_SPACE, f"{replicas} chunkservers with free space are needed, {len(roomy)} have some"
        )
    pool = _preferred(roomy, replicas, avoid, min(most_bytes, CHUNK_BYTES))
    chosen = choose(pool, replicas, (), random)
    limit = min(CHUNK_BYTES, most_bytes, *(s.free_bytes for s in chosen))
    return Placement(tuple(chosen), max(BLOCK_BYTES, limit - limit % BLOCK_BYTES))


def placeable_bytes(free: Iterable[int], replicas: int) -> int:
    """How many bytes can still be stored with each on ``replicas`` of the servers that have so much ``free``.

    With the k emptiest of them aside, each byte still needs R - k places on the others; the tightest k counts.
    """
    most = sorted(free, reverse=True)
    return min(sum(most[aside:]) // (replicas - aside) for aside in range(replicas))


def _preferred(
    servers: list[ServerState], replicas: int, avoid: Collection[ServerId], wanted_bytes: int
) -> list[ServerState]:
    """Those that were not complained about and have room for a whole chunk, if they are enough."""
    trusted = [s for s in servers if s.server not in avoid]
    if len(trusted) < replicas:
        trusted = servers
    whole = [s for s in trusted if s.free_bytes >= wanted_bytes]
    if len(whole) >= replicas:
        return whole
    return sorted(trusted, key=lambda s: -s.free_bytes)[: max(replicas, len(whole))]


def choose(
    pool: Sequence[ServerState], count: int, beside: Sequence[ServerState], random: Callable[[], float]
) -> list[ServerState]:
    """``count`` of ``pool`` (all, if it has fewer), to join the replicas on ``beside``."""
    chosen: list[ServerState] = []
    while len(chosen) < count:
        taken = {s.server for s in chosen}
        left = [s for s in pool if s.server not in taken]
        if not left:
            break
        others = [*beside, *chosen]
        chosen.append(_draw(_apart(left, others), random()))
    return chosen


def _apart(candidates: list[ServerState], others: Sequence[ServerState]) -> list[ServerState]:
    """The candidates on hosts, and then in racks, that ``others`` are not in, if there are any."""
    hosts, racks = {s.host for s in others}, {s.rack for s in others}
    candidates = [s for s in candidates if s.host not in hosts] or candidates
    return [s for s in candidates if s.rack not in racks] or candidates


def _draw(candidates: list[ServerState], point: float) -> ServerState:
    weights = [max(1, s.free_bytes) / (1 + s.open_chunks) for s in candidates]
    rest = point * sum(weights)
    for candidate, weight in zip(candidates, weights, strict=True):
        rest -= weight
        if rest < 0:
            return candidate
    return candidates[-1]
