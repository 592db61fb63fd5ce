"""Tickets signed by the metaserver: rights to chunks for mounts, and our own word towards chunkservers.

Signing costs 50 us, so a read ticket is kept for a while per space and session; time is passed in. Caches are
bounded by count: the oldest entries go first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from cloudverge_auth.keys import SigningKey
from cloudverge_auth.tokens import CHUNK_LIFE_S, ChunkTicket, ServerTicket, sign_chunk, sign_server
from cloudverge_protocol.ids import ChunkId, Epoch, Incarnation, ServerId, SessionId, SpaceId

KEEP_S: Final = 20.0
_CACHED_MAX: Final = 4096
ANY_SPACE: Final = SpaceId(0)


class TicketDesk:
    """Signs for one cluster with its current key."""

    def __init__(self, key: SigningKey, cluster: str) -> None:
        self.key, self._cluster = key, cluster
        self._read: OrderedDict[tuple[SpaceId, SessionId], tuple[str, float]] = OrderedDict()
        self._own: dict[str, tuple[str, float]] = {}

    def read(
        self, space: SpaceId, session: SessionId, incarnation: Incarnation, now_s: float
    ) -> tuple[str, float]:
        """A ticket to read any chunk of ``space``, and how long it still lives."""
        known = self._read.get((space, session))
        if known is None or not 0 <= now_s - known[1] < KEEP_S:
            claims = ChunkTicket("read", space, session=session, incarnation=incarnation)
            known = (sign_chunk(self.key, self._cluster, claims, now_s), now_s)
            self._read[space, session] = known
            self._read.move_to_end((space, session))
            if len(self._read) > _CACHED_MAX:
                self._read.popitem(last=False)
        return known[0], life_left_s(known[1], now_s)

    def append(
        self,
        space: SpaceId,
        chunk: ChunkId,
        epoch: Epoch,
        limit: int,
        servers: Sequence[ServerId],
        session: SessionId,
        incarnation: Incarnation,
        now_s: float,
    ) -> str:
        """A ticket to append to one chunk on its servers."""
        claims = ChunkTicket("append", space, chunk, epoch, limit, tuple(servers), session, incarnation)
        return sign_chunk(self.key, self._cluster, claims, now_s)

    def read_one(self, space: SpaceId, chunk: ChunkId, now_s: float) -> str:
        """A ticket for a chunkserver that copies ``chunk`` from another."""
        return sign_chunk(self.key, self._cluster, ChunkTicket("read", space, chunk), now_s)

    def control(self, server: ServerId, now_s: float) -> str:
        """Our own right to seal, check, copy and remove replicas on ``server``."""
        claims = ChunkTicket("control", ANY_SPACE, servers=(server,))
        return sign_chunk(self.key, self._cluster, claims, now_s)

    def own(self, subject: str, now_s: float) -> str:
        """A server ticket for ``subject``, fresh enough to be used for a minute at least."""
        known = self._own.get(subject)
        if known is None or not 0 <= now_s - known[1] < 60:
            if len(self._own) > _CACHED_MAX:
                self._own.clear()
            claims = ServerTicket(subject)
            known = self._own[subject] = (sign_server(self.key, self._cluster, claims, now_s), now_s)
        return known[0]


def life_left_s(signed_at_s: float, now_s: float) -> float:
    """How long a chunk ticket signed then may still be used, with a little to spare."""
    return max(0.0, CHUNK_LIFE_S - (now_s - signed_at_s) - 2.0)
