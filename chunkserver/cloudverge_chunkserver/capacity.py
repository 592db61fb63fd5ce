"""How much room is left, and who has been promised some.

What an OPEN chunk may still grow by counts as used from its creation, so what was accepted can be stored.
``reserve_bytes`` is kept for cleaning and for the sidecars. Pure: the file system's figures are passed in.
"""

from dataclasses import dataclass
from typing import Final

from cloudverge_chunkserver.disk import Room
from cloudverge_protocol.errors import Code, NoRoom
from cloudverge_protocol.ids import CHUNK_BYTES

_RESERVE_CHUNKS: Final = 2
_RESERVE_SHARE: Final = 8  # on a small disk no more than this part of it


@dataclass(slots=True)
class Capacity:
    """The budget of one server; ``stored_bytes`` is kept up by the store."""

    cap_bytes: int  # 0: the whole file system
    stored_bytes: int = 0
    reserve_bytes: int = -1  # -1: two chunks, or an eighth of a small disk

    def total_bytes(self, room: Room) -> int:
        """The size that is reported."""
        return min(self.cap_bytes or room.total_bytes, room.total_bytes)

    def reserved_bytes(self, room: Room) -> int:
        """What is kept back from appends."""
        if self.reserve_bytes >= 0:
            return self.reserve_bytes
        return min(_RESERVE_CHUNKS * CHUNK_BYTES, self.total_bytes(room) // _RESERVE_SHARE)

    def free_bytes(self, room: Room, claimed_bytes: int) -> int:
        """What may still be promised to new chunks, when OPEN ones may still grow by ``claimed_bytes``."""
        free = room.free_bytes
        if self.cap_bytes:
            free = min(free, self.cap_bytes - self.stored_bytes)
        return max(0, free - claimed_bytes - self.reserved_bytes(room))

    def check(self, room: Room, claimed_bytes: int, wanted_bytes: int) -> None:
        """Refuse what could not be stored."""
        free = self.free_bytes(room, claimed_bytes)
        if wanted_bytes > free:
            raise NoRoom(
                Code.NO_SPACE,
                f"this chunkserver has room for {free} more bytes, not for {wanted_bytes}; use another server",
            )
