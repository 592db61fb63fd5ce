"""What an OPEN chunk's log and data prove after a restart.

The longest record whose data verifies says how long the chunk is. Two cases are told apart, because one of
them may be healed by cutting and the other must not be:

* The log is whole and its last record verifies. Bytes behind it were never acknowledged (the process died
  between writing them and writing their record): they are cut off and the chunk goes on OPEN.
* Anything else is a torn write after a loss of power, or rot. Which one cannot be known, so nothing on disk
  is touched and the chunk takes no more appends (CLOSED): its writer has it sealed and goes on in another
  chunk, and all that verifies stays provable.

Bytes below ``durable`` were fsynced before the record that says so was written, so a mismatch there is rot of
that block alone: it never shortens the chunk, and it is found when the block is read or scrubbed.

Pure but for the ``read`` passed in.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass

from cloudverge_chunkserver.sidecar import Crcs, Log, Record
from cloudverge_protocol.checksum import Buffer, crc32c
from cloudverge_protocol.ids import BLOCK_BYTES

Read = Callable[[int, int], Buffer]  # (offset, size) -> the bytes there, fewer at the end of the file


@dataclass(frozen=True, slots=True)
class Recovered:
    """The proven state: ``crcs`` of finished blocks, ``tail`` of the unfinished one, up to ``length``.

    ``damaged``: fsynced bytes are missing from the data file.
    """

    length: int
    crcs: Crcs
    tail: int
    durable: int
    closed: bool
    damaged: bool


def recover(log: Log, data_bytes: int, read: Read) -> Recovered:
    """The longest state of the chunk that its log and data prove."""
    if not log.records:
        return Recovered(0, array("I"), 0, 0, not log.clean, False)
    last = log.records[-1]
    chosen = _longest_verified(log, read)
    crcs = log.crcs[: chosen.length // BLOCK_BYTES]
    missing = data_bytes < chosen.length  # only possible below ``durable``: the rest was verified
    closed = bool(log.fence) or not log.clean or chosen.length != last.length or missing
    return Recovered(chosen.length, crcs, chosen.tail, last.durable, closed, missing)


def _longest_verified(log: Log, read: Read) -> Record:
    durable = log.records[-1].durable
    good_blocks = _good_blocks(log, durable, read)
    floor = log.records[0]
    for record in reversed(log.records):
        if record.length <= durable:
            return record
        if record.length // BLOCK_BYTES <= good_blocks and _tail_verifies(record, read):
            return record
        floor = record
    # ``durable`` is 0 and no record verifies: nothing is proven
    return Record(0, 0, 0, floor.end, floor.crc)


def _good_blocks(log: Log, durable: int, read: Read) -> int:
    """How many finished blocks can be relied on: all below ``durable``, then as many as verify."""
    for block in range(durable // BLOCK_BYTES, len(log.crcs)):
        if crc32c(read(block * BLOCK_BYTES, BLOCK_BYTES)) != log.crcs[block]:
            return block
    return len(log.crcs)


def _tail_verifies(record: Record, read: Read) -> bool:
    start = record.length // BLOCK_BYTES * BLOCK_BYTES
    data = read(start, record.length - start) if record.length > start else b""
    return len(data) == record.length - start and crc32c(data) == record.tail
