"""Connections to chunkservers: made when needed, kept, made again when they broke.

Every call has a deadline, and a server that cannot be reached is known after a few seconds; callers decide what
that means. Bounded: the least recently used connection is closed beyond ``LINKS_MAX``.
"""

import asyncio
import ssl as tls
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeVar

from cloudverge_protocol.messages import FrameType, Hello, Message, Place, Read, ReadReply
from cloudverge_wire.frameclient import FrameClient

CONNECT_S: Final = 3.0
CALL_S: Final = 10.0
LINKS_MAX: Final = 1024

Reply = TypeVar("Reply", bound=Message)
Address = tuple[str, int]


class Links:
    """``call`` is all there is to it, with ``read`` for bytes."""

    def __init__(self, hello: Callable[[], Hello], ssl: tls.SSLContext | None = None) -> None:
        self._hello, self._ssl = hello, ssl
        self._clients: OrderedDict[Address, FrameClient] = OrderedDict()
        self._connecting: dict[Address, asyncio.Lock] = {}

    async def call(
        self,
        place: Place,
        kind: FrameType,
        message: Message,
        reply: type[Reply],
        timeout_s: float = CALL_S,
    ) -> Reply:
        """The answer of the server at ``place``; raises Unavailable, or the error it answers."""
        client = await self._client((place.host, place.port))
        answer, _ = await client.call(kind, message, timeout_s=timeout_s)
        assert isinstance(answer, reply)
        return answer

    async def read(self, place: Place, request: Read, timeout_s: float) -> tuple[ReadReply, memoryview]:
        """Bytes of a chunk as the server at ``place`` sends them: to be verified by the caller."""
        client = await self._client((place.host, place.port))
        answer, body = await client.call(FrameType.READ, request, timeout_s=timeout_s)
        assert isinstance(answer, ReadReply)
        return answer, body

    async def _client(self, address: Address) -> FrameClient:
        lock = self._connecting.setdefault(address, asyncio.Lock())
        async with lock:
            known = self._clients.pop(address, None)
            if known is None or known.closed:
                host, port = address
                known = await FrameClient.connect(host, port, self._hello, ssl=self._ssl, timeout_s=CONNECT_S)
            self._clients[address] = known
            while len(self._clients) > LINKS_MAX:
                oldest, client = self._clients.popitem(last=False)
                self._connecting.pop(oldest, None)
                client.close()
            return known

    def close(self) -> None:
        """Close all; calls under way fail."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
