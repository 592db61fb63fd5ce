"""Tickets signed by the metaserver: rights to chunks for mounts, and our own word towards chunkservers.

A chunkserver must not be able to use what it is shown anywhere else: a read ticket names one server, all others
name one chunk and its servers. Each carries the membership epoch of the identity behind it and ends when that
right ends. Signing costs 50 us, so a read ticket is kept for a while per session and server; time is passed in.
Caches are bounded by count: the oldest entries go first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from cloudverge_auth.keys import SigningKey
from cloudverge_auth.tokens import (
    CHUNK_LIFE_S,
    ChunkTicket,
    Identity,
    Right,
    ServerTicket,
    sign_chunk,
    sign_server,
)
from cloudverge_protocol.ids import ID_MAX, ChunkId, Epoch, Incarnation, ServerId, SessionId, SpaceId
from cloudverge_protocol.messages import Place

KEEP_S: Final = 10.0
_CACHED_MAX: Final = 4096
ANY_SPACE: Final = SpaceId(0)
ALWAYS: Final = Epoch(ID_MAX)  # no revocation ends what we do ourselves


class TicketDesk:
    """Signs for one cluster with its current key."""

    def __init__(self, key: SigningKey, cluster: str) -> None:
        self.key, self._cluster = key, cluster
        self._read: OrderedDict[tuple[int, ...], tuple[str, float]] = OrderedDict()
        self._own: dict[str, tuple[str, float]] = {}

    def read(
        self, identity: Identity, session: SessionId, server: ServerId, now_s: float
    ) -> tuple[str, float]:
        """A ticket to read any chunk of the caller's space on ``server``, and how long it still lives.

        To one who is confined to a sub-tree it opens the connection and nothing else.
        """
        epoch, until = identity.membership_epoch, identity.until
        key = (identity.space, session, server, epoch, until, identity.is_confined)
        known = self._read.get(key)
        if known is None or not 0 <= now_s - known[1] < KEEP_S:
            right: Right = "enter" if identity.is_confined else "read"
            claims = ChunkTicket(
                right,
                identity.space,
                servers=(server,),
                session=session,
                membership_epoch=epoch,
                user=identity.user,
            )
            known = (sign_chunk(self.key, self._cluster, claims, now_s, until), now_s)
            self._read[key] = known
            self._read.move_to_end(key)
            if len(self._read) > _CACHED_MAX:
                self._read.popitem(last=False)
        return known[0], life_left_s(known[1], now_s, until)

    def ranges(
        self,
        identity: Identity,
        chunk: ChunkId,
        servers: Sequence[ServerId],
        ranges: tuple[tuple[int, int], ...],
        now_s: float,
    ) -> str:
        """A ticket to read those bytes of ``chunk`` on the servers that hold it."""
        claims = ChunkTicket(
            "read",
            identity.space,
            chunk,
            servers=tuple(servers),
            membership_epoch=identity.membership_epoch,
            ranges=ranges,
            user=identity.user,
        )
        return sign_chunk(self.key, self._cluster, claims, now_s, identity.until)

    def append(
        self,
        identity: Identity,
        chunk: ChunkId,
        epoch: Epoch,
        limit: int,
        places: Sequence[Place],
        session: SessionId,
        incarnation: Incarnation,
        now_s: float,
    ) -> str:
        """A ticket to append to one chunk on its servers; a chain leads to these places and nowhere else."""
        claims = ChunkTicket(
            "append",
            identity.space,
            chunk,
            epoch,
            limit,
            tuple(place.server for place in places),
            session,
            incarnation,
            identity.membership_epoch,
            places=tuple((place.server, place.host, place.port) for place in places),
            user=identity.user,
        )
        return sign_chunk(self.key, self._cluster, claims, now_s, identity.until)

    def read_one(self, space: SpaceId, chunk: ChunkId, servers: Sequence[ServerId], now_s: float) -> str:
        """A ticket of our own to read ``chunk`` on these servers, for a copy of it or for a download."""
        claims = ChunkTicket("read", space, chunk, servers=tuple(servers), membership_epoch=ALWAYS)
        return sign_chunk(self.key, self._cluster, claims, now_s)

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


def life_left_s(signed_at_s: float, now_s: float, until: int = 0) -> float:
    """How long a chunk ticket signed then may still be used, with a little to spare."""
    end_s = min(signed_at_s + CHUNK_LIFE_S, until) if until else signed_at_s + CHUNK_LIFE_S
    return max(0.0, end_s - now_s - 2.0)
