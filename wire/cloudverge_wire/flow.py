"""How much goes through a frame connection at a time, and how a frame is handed to its transport."""

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Final
from weakref import WeakValueDictionary

from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import Code, Unavailable
from cloudverge_protocol.frames import Frame
from cloudverge_protocol.ids import MAX_READ_BYTES
from cloudverge_protocol.messages import Message, Read

CONNECTIONS_MAX: Final = 512  # of one caller; a mount has two or three to each server
IN_FLIGHT: Final = 256
IN_FLIGHT_BYTES: Final = 32 * 1024 * 1024
WRITE_HIGH_BYTES: Final = 8 * 1024 * 1024
_COALESCE_BYTES: Final = 16 * 1024  # a body up to this is copied behind its header: one buffer, one send


def cost_of(frame: Frame, message: Message) -> int:
    """Bytes that a request holds until it is answered: its own, and those of the reply it asks for."""
    wanted = min(max(message.length, 0), MAX_READ_BYTES) if isinstance(message, Read) else 0
    return len(frame.header) + len(frame.body) + wanted


class InFlight:
    """Requests that are not answered yet, against a limit: those of one connection, or of all that one caller has."""

    def __init__(self, most_bytes: int = IN_FLIGHT_BYTES) -> None:
        self.requests = 0
        self.bytes = 0
        self._most_bytes = most_bytes
        self._held: dict[Callable[[], None], None] = {}  # in the order in which they came

    @property
    def full(self) -> bool:
        """Whether the next request must wait."""
        return self.requests >= IN_FLIGHT or self.bytes >= self._most_bytes

    def add(self, cost_bytes: int) -> None:
        """A request begins."""
        self.requests += 1
        self.bytes += cost_bytes

    def remove(self, cost_bytes: int) -> None:
        """It is answered; connections that were held go on, for as long as there is room."""
        self.requests -= 1
        self.bytes -= cost_bytes
        while self._held and not self.full:
            go_on = next(iter(self._held))
            del self._held[go_on]
            go_on()

    def hold(self, go_on: Callable[[], None]) -> None:
        """Call ``go_on`` once when there is room again."""
        self._held[go_on] = None

    def forget(self, go_on: Callable[[], None]) -> None:
        """Its connection is gone."""
        self._held.pop(go_on, None)


class Shares:
    """One limit for all connections of a caller, so that more connections do not mean more."""

    def __init__(self, key: Callable[[object], Hashable], most_bytes: int) -> None:
        self._key, self._most_bytes = key, most_bytes
        self._shares: WeakValueDictionary[Hashable, InFlight] = WeakValueDictionary()

    def of(self, identity: object) -> InFlight:
        """What counts the requests of this caller."""
        key = self._key(identity)
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = InFlight(self._most_bytes)
        return share


class Callers:
    """How many connections each caller has. Who has ``most`` is told to close some, so that there is room for others.

    ``key`` tells callers apart; None: connections of this one are not counted.
    """

    def __init__(self, key: Callable[[object], Hashable | None], most: int = CONNECTIONS_MAX) -> None:
        self._key, self._most = key, most
        self._connections: Counter[Hashable] = Counter()

    def enter(self, identity: object, before: Hashable | None) -> Hashable | None:
        """A connection is this caller's from now on, and no more of ``before``; the key. Raises Unavailable."""
        key = self._key(identity)
        if key == before:
            return key
        if key is not None:
            if self._connections[key] >= self._most:
                raise Unavailable(
                    Code.UNAVAILABLE, f"you have {self._most} connections to this server: close some"
                )
            self._connections[key] += 1
        self.leave(before)
        return key

    def leave(self, key: Hashable | None) -> None:
        """A connection of this caller is gone."""
        if key is not None:
            self._connections[key] -= 1
            if not self._connections[key]:
                del self._connections[key]


def write_frame(transport: asyncio.Transport, head: bytes, body: Sequence[Buffer]) -> None:
    """Send a frame; large bodies are handed to the transport as they are, without a copy of ours."""
    if not body:
        transport.write(head)
    elif sum(map(len, body)) <= _COALESCE_BYTES:
        transport.write(b"".join((head, *body)))
    else:
        transport.writelines((head, *body))
