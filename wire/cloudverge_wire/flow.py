"""How much goes through a frame connection at a time, and how a frame is handed to its transport."""

import asyncio
from collections.abc import Sequence
from typing import Final

from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.frames import Frame
from cloudverge_protocol.ids import MAX_READ_BYTES
from cloudverge_protocol.messages import Message, Read

IN_FLIGHT: Final = 256
IN_FLIGHT_BYTES: Final = 32 * 1024 * 1024
WRITE_HIGH_BYTES: Final = 8 * 1024 * 1024
_COALESCE_BYTES: Final = 16 * 1024  # a body up to this is copied behind its header: one buffer, one send


def cost_of(frame: Frame, message: Message) -> int:
    """Bytes that a request holds until it is answered: its own, and those of the reply it asks for."""
    wanted = min(max(message.length, 0), MAX_READ_BYTES) if isinstance(message, Read) else 0
    return len(frame.header) + len(frame.body) + wanted


class InFlight:
    """The requests of one connection that are not answered yet, against the limits above."""

    def __init__(self) -> None:
        self.requests = 0
        self.bytes = 0

    @property
    def full(self) -> bool:
        """Whether the next request must wait."""
        return self.requests >= IN_FLIGHT or self.bytes >= IN_FLIGHT_BYTES

    def add(self, cost_bytes: int) -> None:
        """A request begins."""
        self.requests += 1
        self.bytes += cost_bytes

    def remove(self, cost_bytes: int) -> None:
        """It is answered."""
        self.requests -= 1
        self.bytes -= cost_bytes


def write_frame(transport: asyncio.Transport, head: bytes, body: Sequence[Buffer]) -> None:
    """Send a frame; large bodies are handed to the transport as they are, without a copy of ours."""
    if not body:
        transport.write(head)
    elif sum(map(len, body)) <= _COALESCE_BYTES:
        transport.write(b"".join((head, *body)))
    else:
        transport.writelines((head, *body))
