"""What follows when rights to a space have been taken away: older tickets are refused, here and at the chunkservers.

Three places, for each catches what the others cannot: requests on standing connections are checked against what is
known in memory (``check``); the space's row keeps the epoch for batches and for other metaservers; the
chunkservers are told at once, and again with each heartbeat (``lately``), so that one that was away, or has just
started, knows as soon as it is heard of.
"""

import asyncio
import time
from typing import Final

import structlog

from cloudverge_auth.tokens import INVALID_MESSAGE, Identity
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.links import Links
from cloudverge_metaserver.revocations import Revocations
from cloudverge_metaserver.servers import Servers
from cloudverge_metaserver.tickets import TicketDesk
from cloudverge_protocol.errors import CloudVergeError, Code, Denied
from cloudverge_protocol.ids import Epoch, SpaceId
from cloudverge_protocol.messages import Empty, Epochs, FrameType, Place

_log = structlog.get_logger("cloudverge.metaserver")

TELL_WITHIN_S: Final = 3.0
_RAISE: Final = """
    update meta.spaces s set membership_epoch = k.epoch, revision = revision + 1
    from unnest($1::bigint[], $2::bigint[]) k(space, epoch)
    where s.space = k.space and s.membership_epoch < k.epoch
"""


class Barring:
    """See the module's text."""

    def __init__(
        self,
        revocations: Revocations,
        database: Database,
        servers: Servers,
        links: Links,
        desk: TicketDesk,
    ) -> None:
        self._revocations, self._database = revocations, database
        self._servers, self._links, self._desk = servers, links, desk
        revocations.on_raised += [self._tell_chunkservers, self._keep]

    def check(self, identity: Identity) -> None:
        """Refuse a caller whose ticket was signed before a right to its space was taken away."""
        if identity.membership_epoch < self._revocations.epoch_of(identity.space):
            raise Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)

    async def _keep(self, raised: dict[SpaceId, Epoch]) -> None:
        async with self._database.connection() as connection:
            await connection.execute(_RAISE, list(raised.keys()), list(raised.values()))

    async def _tell_chunkservers(self, raised: dict[SpaceId, Epoch]) -> None:
        rows = [row.state for row in await self._servers.all() if not row.state.silent]
        await asyncio.gather(*(self._tell(state.place, raised) for state in rows))

    async def _tell(self, place: Place, raised: dict[SpaceId, Epoch]) -> None:
        message = Epochs(self._desk.control(place.server, time.time()), tuple(raised.items()))
        try:
            await self._links.call(place, FrameType.EPOCHS, message, Empty, timeout_s=TELL_WITHIN_S)
        except CloudVergeError as error:
            _log.info("a chunkserver hears of it later", server=place.server, reason=error.message)
