"""Chunks as this server knows them: OPEN ones whole in memory, SEALED ones as their table, read on demand.

``OpenChunk`` is changed by ``store`` alone, between two awaits, so whoever looks at it sees one moment. Its
``length`` only grows; the bytes below it never change (I4), so a reader that has taken a ``view`` may read them
later, from any thread.
"""

from array import array
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from cloudverge_chunkserver.recovery import Recovered
from cloudverge_chunkserver.sidecar import Crcs, Header, Log, Table, blocks_in, encode_fence, encode_record
from cloudverge_protocol.checksum import Buffer, crc32c, split_at_blocks
from cloudverge_protocol.ids import BLOCK_BYTES, ChunkId, Epoch


class State(StrEnum):
    """What REPLICA_STAT answers."""

    OPEN = "OPEN"
    SEALED = "SEALED"
    DAMAGED = "DAMAGED"
    ABSENT = "ABSENT"


class View(NamedTuple):
    """What can be read of a chunk at one moment: [0, length), one CRC per block, the last block cut at length."""

    length: int
    crcs: Crcs  # may have grown since: only those of blocks finished at ``length`` count
    tail: int  # CRC of the unfinished block, if there is one

    def crc_of(self, block: int) -> int:
        """The CRC that ``block`` must have."""
        return self.crcs[block] if block < self.length // BLOCK_BYTES else self.tail

    def bytes_of(self, block: int) -> int:
        """How many bytes ``block`` has."""
        return min(self.length - block * BLOCK_BYTES, BLOCK_BYTES)

    def all_crcs(self) -> Crcs:
        """One CRC per block, as a table wants them."""
        finished = self.length // BLOCK_BYTES
        return self.crcs[:finished] + array("I", [self.tail] * (blocks_in(self.length) - finished))


@dataclass(slots=True, eq=False)
class SealedChunk:
    """A chunk that will not grow."""

    table: Table

    @property
    def header(self) -> Header:
        """Whose chunk it is."""
        return self.table.header

    @property
    def length(self) -> int:
        """The seal."""
        return self.table.length

    def view(self) -> View:
        """All of it."""
        crcs = self.table.crcs
        return View(self.table.length, crcs, crcs[-1] if crcs else 0)


@dataclass(slots=True, eq=False)
class BrokenChunk:
    """A chunk whose sidecar does not verify: its files are kept, nothing in them can be proven."""

    chunk: ChunkId
    reason: str


class Growth(NamedTuple):
    """What an append adds to the checksums: CRCs of blocks it finishes, and the new tail's."""

    length: int
    finished: list[int]
    tail: int


@dataclass(slots=True, eq=False)
class OpenChunk:
    """A chunk that its writer may still append to, unless ``closed`` says why not.

    ``durable`` bytes have been fsynced, and ``log_durable`` of the log.
    ``log_end`` and ``log_crc`` are where the next log record goes.
    ``loggable`` is False when recovery found the log or the data torn: then its files are left as they are.
    """

    header: Header
    log_end: int
    log_crc: int
    epoch: Epoch
    length: int = 0
    crcs: Crcs = field(default_factory=lambda: array("I"))
    tail: int = 0
    durable: int = 0
    log_durable: int = 0
    closed: str = ""
    loggable: bool = True
    named: bool = False  # the folder that names its files has been fsynced
    verified: bool = True  # every byte passed its checksum in this process
    sync_fault: OSError | None = None  # a sync failed: nothing above ``durable`` can ever be promised

    @classmethod
    def recovered(cls, log: Log, found: Recovered) -> "OpenChunk":
        """The chunk as a restart finds it."""
        return cls(
            header=log.header,
            log_end=log.end,
            log_crc=log.crc,
            epoch=max(log.header.epoch, log.fence),
            length=found.length,
            crcs=found.crcs,
            tail=found.tail,
            durable=found.durable,
            closed="it was closed before a restart" if found.closed else "",
            loggable=log.clean and (not log.records or log.records[-1].length == found.length),
            verified=False,
        )

    @property
    def claim_bytes(self) -> int:
        """Room it may still ask for."""
        return 0 if self.closed or self.sync_fault else max(0, self.header.limit - self.length)

    def view(self) -> View:
        """What can be read now."""
        return View(self.length, self.crcs, self.tail)

    def growth(self, data: Buffer, piece_crcs: list[int] | tuple[int, ...]) -> Growth:
        """The checksums after appending ``data``, whose pieces (cut at blocks) have ``piece_crcs``.

        Only a piece that goes on in an unfinished block is computed anew; the others are stored as verified.
        """
        finished: list[int] = []
        tail = self.tail
        for (start, end), crc in zip(split_at_blocks(self.length, len(data)), piece_crcs, strict=True):
            carried = (self.length + start) % BLOCK_BYTES != 0
            tail = crc32c(memoryview(data)[start:end], tail) if carried else crc
            if (self.length + end) % BLOCK_BYTES == 0:
                finished.append(tail)
                tail = 0
        return Growth(self.length + len(data), finished, tail)

    def record_of(self, growth: Growth) -> tuple[bytes, int]:
        """The log record that acknowledges ``growth``."""
        return encode_record(self.log_crc, growth.length, self.durable, growth.tail, growth.finished)

    def fence_record(self, epoch: Epoch) -> tuple[bytes, int]:
        """The log record that ends the appending."""
        return encode_fence(self.log_crc, self.length, self.durable, self.tail, epoch)

    def logged(self, record: bytes, crc: int) -> None:
        """``record`` has been written at ``log_end``."""
        self.log_end += len(record)
        self.log_crc = crc

    def grow(self, growth: Growth) -> None:
        """Data and record are written: the new bytes count from now on."""
        self.crcs.extend(growth.finished)
        self.tail = growth.tail
        self.length = growth.length


Chunk = OpenChunk | SealedChunk | BrokenChunk
