"""What the bytes side sees of the names side: the ``Sink``, over ledger, loader and gate.

While rows are being rebuilt no Write can be made: the bytes stay dirty and come again.
"""

from cloudverge_mount.core import Core
from cloudverge_mount.records import Receipts
from cloudverge_mount.spillrecord import Spilled
from cloudverge_protocol import extents as arithmetic
from cloudverge_protocol.errors import Code, Unavailable
from cloudverge_protocol.ids import ChunkId, InodeId, region_of
from cloudverge_protocol.inodes import Extents


class ContentPort:
    """Satisfies ``sink.Sink``; ``core`` is set once it exists."""

    core: Core

    async def file_extents(self, ino: InodeId, offset: int, length: int) -> Extents:
        """See ``Sink``."""
        if self.core.gate.closed is None:
            node = self.core.rows.node(ino)
            if node is not None and node.row is not None and node.row.size == 0:
                return ()
        return await self.core.retry(self._file_extents, ino, offset, length)

    def _file_extents(self, ino: InodeId, offset: int, length: int) -> Extents:
        local = self.core.ledger.local
        first, last = region_of(offset), region_of(max(offset, offset + length - 1))
        if first == last:
            return arithmetic.meeting(local.extents(ino, first), offset, offset + length)
        found: list[Extents] = [local.extents(ino, region) for region in range(first, last + 1)]
        return tuple(e for part in found for e in arithmetic.meeting(part, offset, offset + length))

    def log_spill(self, record: Spilled) -> None:
        """See ``Sink``."""
        self.core.ledger.log_spill(record)

    def enter_write(
        self, ino: InodeId, extents: Extents, receipts: Receipts, durable_below: int, spilled_through: int
    ) -> int:
        """See ``Sink``."""
        if self.core.gate.closed is not None:
            raise Unavailable(Code.UNAVAILABLE, "the local view is being rebuilt")
        return self.core.ledger.enter_write(ino, extents, receipts, durable_below, spilled_through)

    def content_settled(self, ino: InodeId) -> None:
        """See ``Sink``."""
        if self.core.gate.closed is not None:
            self.core.ledger.unsettled.add(ino)
        else:
            self.core.ledger.content_settled(ino)

    def hurry(self) -> None:
        """See ``Sink``."""
        self.core.shipper.hurry()

    def chunk_done(self, chunk: ChunkId) -> None:
        """See ``Sink``."""
        self.core.ledger.chunk_done(chunk)

    def journaled_size(self, ino: InodeId) -> int:
        """See ``Sink``."""
        node = self.core.rows.node(ino)
        return 0 if node is None or node.row is None else node.row.size
