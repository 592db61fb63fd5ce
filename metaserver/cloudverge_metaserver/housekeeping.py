"""What a metaserver does without being asked: seal, reap, delete, repair.

Each job runs alone, in passes: at once when kicked, otherwise every so often; a pass that may have more to do is
followed by another. All of them start from what the database says, so nothing is lost with a process, and two
metaservers doing the same work only waste it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from cloudverge_metaserver.database import Database
from cloudverge_metaserver.sealing import Sealer
from cloudverge_protocol.errors import CloudVergeError
from cloudverge_protocol.ids import ChunkId, SpaceId

_log = structlog.get_logger("cloudverge.metaserver")

SEALS_AT_ONCE: Final = 64
AGAIN_AFTER_S: Final = 5.0
PAUSE_S: Final = 0.2  # between passes that follow each other

_ABANDONED: Final = """
    select c.space, c.chunk from meta.chunks c join meta.incarnations i on i.incarnation = c.incarnation
    where c.state in (1, 3)
        and (c.state = 3 or c.sealing or c.pinned_by is null or i.fenced_at is not null)
        and (c.tried_at is null or c.tried_at < clock_timestamp() - $1::float8 * interval '1 s')
    order by c.tried_at nulls first limit $2
"""


@dataclass
class Job:
    """One kind of work; ``run`` does a pass and says whether there may be more."""

    name: str
    run: Callable[[], Awaitable[bool]]
    every_s: float
    kicked: asyncio.Event = field(default_factory=asyncio.Event)

    def kick(self) -> None:
        """There may be something to do."""
        self.kicked.set()

    async def loop(self) -> None:
        """Until cancelled."""
        while True:
            more = await self._pass()
            try:
                async with asyncio.timeout(PAUSE_S if more else self.every_s):
                    await self.kicked.wait()
            except TimeoutError:
                pass

    async def _pass(self) -> bool:
        self.kicked.clear()
        try:
            return await self.run()
        except CloudVergeError as error:
            _log.info("put off", job=self.name, reason=error.message)
        except Exception:
            _log.exception("failed", job=self.name)
        return False


class Abandoned:
    """Seals OPEN chunks whose writer is gone, done with them, or was interrupted, and DAMAGED ones again."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database, self._sealer = database, sealer

    async def run(self) -> bool:
        """One pass."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_ABANDONED, AGAIN_AFTER_S, SEALS_AT_ONCE)
        results = await asyncio.gather(
            *(self._sealer.seal(SpaceId(space), ChunkId(chunk)) for space, chunk in rows),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, CloudVergeError):
                _log.info("chunk not sealed yet", reason=result.message)
            elif isinstance(result, BaseException):
                raise result
        return len(rows) == SEALS_AT_ONCE
