"""Suspected damage: a reader's report (DAMAGE) or a chunkserver's own. Nothing is believed: the server is made to
verify, and only what it then says of itself counts.

Bounded: so many suspicions wait at most, one replica is looked at once a minute at most, one after the other.
The caller is answered at once, and in the same way whether the chunk is his, or exists.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.admission import check_space
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.links import Links
from cloudverge_metaserver.sealing import Sealer
from cloudverge_metaserver.tickets import TicketDesk
from cloudverge_protocol.errors import CloudVergeError
from cloudverge_protocol.ids import ID_MAX, ChunkId, ServerId, SpaceId
from cloudverge_protocol.messages import Damage, Empty, FrameType, Place, ReplicaVerified, ReplicaVerify

_log = structlog.get_logger("cloudverge.metaserver")

WAITING_MAX: Final = 1024
AGAIN_AFTER_S: Final = 60.0
VERIFY_WITHIN_S: Final = 60.0

Suspect = tuple[SpaceId | None, ServerId, ChunkId]

_REPLICA: Final = """
    select c.space, c.state, c.sealed_length, r.state as replica, s.host, s.frame_port
    from meta.chunks c join meta.replicas r on r.chunk = c.chunk and r.server = $2
    join meta.servers s on s.server = r.server
    where c.chunk = $1 and c.state in (1, 2) and r.state in (1, 2, 3)
"""
_BAD: Final = """
    update meta.replicas set state = 4, changed_at = clock_timestamp()
    where chunk = $1 and server = $2 and state in (2, 3)
"""


class Suspicions:
    """A queue and who works it off."""

    def __init__(self, database: Database, links: Links, desk: TicketDesk, sealer: Sealer) -> None:
        self._database, self._links, self._desk, self._sealer = database, links, desk, sealer
        self._waiting: asyncio.Queue[Suspect] = asyncio.Queue(WAITING_MAX)
        self._looked_at: OrderedDict[tuple[ServerId, ChunkId], float] = OrderedDict()
        self.found: Callable[[], None] = lambda: None  # called when there is something to repair

    async def report(self, identity: Identity, message: Damage) -> Empty:
        """A mount was given bad bytes."""
        check_space(identity, message.space)
        if identity.is_confined:
            return Empty()  # its chunk could be any of the space's; scrubbing finds what is really bad
        if 0 < message.chunk <= ID_MAX and 0 < message.server <= ID_MAX:
            self._add(message.space, message.server, message.chunk)
        return Empty()

    def suspect(self, server: ServerId, chunk: ChunkId) -> None:
        """A server reports damage of its own."""
        self._add(None, server, chunk)

    def _add(self, space: SpaceId | None, server: ServerId, chunk: ChunkId) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_at.get((server, chunk), float("-inf")) < AGAIN_AFTER_S:
            return
        self._looked_at[server, chunk] = now_s
        while len(self._looked_at) > WAITING_MAX:
            self._looked_at.popitem(last=False)
        try:
            self._waiting.put_nowait((space, server, chunk))
        except asyncio.QueueFull:
            _log.warning("too many suspicions, one dropped", server=server, chunk=chunk)

    async def run(self) -> None:
        """Look into one after the other until cancelled."""
        while True:
            space, server, chunk = await self._waiting.get()
            try:
                await self._look_into(space, server, chunk)
            except CloudVergeError as error:
                _log.info("suspicion not looked into", server=server, chunk=chunk, reason=error.message)
            except Exception:
                _log.exception("suspicion not looked into", server=server, chunk=chunk)

    async def _look_into(self, space: SpaceId | None, server: ServerId, chunk: ChunkId) -> None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_REPLICA, chunk, server)
        if row is None or space not in (None, row["space"]):
            return
        place = Place(server, row["host"], row["frame_port"])
        verified = await self._links.call(
            place,
            FrameType.REPLICA_VERIFY,
            ReplicaVerify(self._desk.control(server, time.time()), chunk),
            ReplicaVerified,
            timeout_s=VERIFY_WITHIN_S,
        )
        if not verified.bad and verified.length >= (row["sealed_length"] or 0):
            return
        _log.warning("replica is damaged", server=server, chunk=chunk, bad_blocks=len(verified.bad))
        if row["sealed_length"] is None:
            await self._sealer.seal(SpaceId(row["space"]), chunk)  # leaves this replica out
        async with self._database.on_space(SpaceId(row["space"])) as connection:
            await connection.execute(_BAD, chunk, server)
        self.found()
