"""Where the replicas of chunks are: asked from the metaserver, remembered, asked again when it was wrong."""

from collections import OrderedDict
from collections.abc import Callable

from cloudverge_mount.metaclient import MetaClient
from cloudverge_mount.ticketbook import Rights
from cloudverge_protocol.errors import ChunkFault, Code
from cloudverge_protocol.ids import ChunkId
from cloudverge_protocol.messages import ChunkLocate, Place

REMEMBERED = 8192


class Locations:
    """Places by chunk. ``own`` knows those of chunks being written here."""

    def __init__(self, meta: MetaClient, rights: Rights, own: Callable[[ChunkId], tuple[Place, ...]]) -> None:
        self._meta = meta
        self._rights = rights
        self._own = own
        self._known: OrderedDict[ChunkId, tuple[Place, ...]] = OrderedDict()

    async def of(self, chunk: ChunkId) -> tuple[Place, ...]:
        """The replicas of ``chunk``; raises ChunkFault(MOVED) if it does not exist (any more)."""
        known = self._known.get(chunk) or self._own(chunk)
        return known or await self.ask(chunk)

    async def ask(self, chunk: ChunkId) -> tuple[Place, ...]:
        """As ``of``, but not from memory."""
        self._known.pop(chunk, None)
        reply = await self._meta.locate(ChunkLocate(self._rights.space, (chunk,)))
        for found in reply.chunks:
            if found.chunk == chunk and found.places:
                self._known[chunk] = found.places
                if len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
                return found.places
        raise ChunkFault(Code.MOVED, f"chunk {chunk} has no replica any more")
