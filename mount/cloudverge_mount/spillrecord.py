"""The spill record: what the journal keeps of bytes that were closed but are not durable elsewhere yet.

A record comes in two forms:

- *spilled* (``segment`` > 0): the file bytes [offset, offset + length) of ``ino`` lie at ``position`` of spill
  segment ``segment``, and their CRC-32C is ``crc``;
- *forgotten* (``segment`` == 0): the records of ``ino`` with lower numbers no longer hold for
  [offset, offset + length): the range was cut off, became a hole, or the file was dropped.

Replaying the records of an inode in the order of their numbers, together with the Writes journaled between
them, gives the dirty map again. ``number`` grows over the life of a cache folder.
"""

import msgspec

from cloudverge_protocol.ids import InodeId


class Spilled(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One spill record; see the module's text."""

    ino: InodeId
    segment: int
    position: int
    offset: int
    length: int
    crc: int
    number: int

    @property
    def end(self) -> int:
        """The file offset just past the range."""
        return self.offset + self.length

    @property
    def forgets(self) -> bool:
        """Whether this record takes earlier ones back."""
        return self.segment == 0


def forgotten(ino: InodeId, start: int, end: int, number: int) -> Spilled:
    """The record that takes back everything of ``ino`` in [start, end) with a number below this."""
    return Spilled(ino, 0, 0, start, end - start, 0, number)
