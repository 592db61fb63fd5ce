"""What the bytes side tells the names side: durable ranges go in, mapped extents come out.

``Content`` holds bytes and knows nothing of names; the names side holds names, attributes and the journal and
implements this. All methods but ``file_extents`` are synchronous: they journal and return, so that what the
bytes side believes and what the journal says never differ by a suspension.

Recovery, in the journal's order: each record -> ``content.restore``; each Write -> ``content.rewritten``; each
local cut -> ``content.cut``; each inode that ended -> ``content.drop``; at last ``content.finish_restore``.
"""

from typing import Protocol

from cloudverge_mount.spillrecord import Spilled
from cloudverge_protocol.ids import ChunkId, InodeId
from cloudverge_protocol.inodes import Extents
from cloudverge_protocol.messages import Receipt


class Sink(Protocol):
    """The names side, as the bytes side sees it."""

    async def file_extents(self, ino: InodeId, offset: int, length: int) -> Extents:
        """The mapped extents of that range of the file, sorted, as the journal state is (not counting dirty).

        Extents may reach beyond the range; what none covers is a hole. Asked again after MOVED.
        """
        ...

    def log_spill(self, record: Spilled) -> None:
        """Journal this record now (one write(2), no fsync)."""
        ...

    def enter_write(
        self,
        ino: InodeId,
        extents: Extents,
        receipts: tuple[Receipt, ...],
        durable_below: int,
        spilled_through: int,
    ) -> int:
        """These bytes of ``ino`` are fsynced on every replica of their chunks: journal the Write.

        ``extents`` holds only ranges that are still current (nothing overwritten, cut or dropped since) and at
        most MAX_EXTENTS of them. No byte below ``durable_below`` is dirty any more (FILE_BYTES_MAX: none at all);
        the size to commit is max(journaled size, min(local size, durable_below)). Extents beyond the journaled
        size come in ascending order and never reach past ``durable_below``.

        Spill records of ``ino`` numbered ``spilled_through`` or lower are superseded by this Write: once it is
        committed, ``content.spill_committed(ino, spilled_through)`` releases their space.

        Returns how many entries there are with this one, to be compared with what ``content.committed`` is told; 0
        when it waits for other operations. Raises when the journal cannot take it; then nothing is entered and the
        bytes stay dirty.
        """
        ...

    def content_settled(self, ino: InodeId) -> None:
        """No dirty byte of ``ino`` is left: what is held for it may go."""
        ...

    def hurry(self) -> None:
        """Have what has entered committed soon."""
        ...

    def chunk_done(self, chunk: ChunkId) -> None:
        """No further Write will name ``chunk``: journal ChunkDone."""
        ...

    def journaled_size(self, ino: InodeId) -> int:
        """The size of ``ino`` in the journal state, not counting dirty bytes."""
        ...


MAX_EXTENTS = 2000  # of one enter_write
