"""A frame server under test, a well-behaved client, and a caller that sends whatever bytes it likes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from cloudverge_protocol import codec
from cloudverge_protocol.errors import Code, Denied
from cloudverge_protocol.frames import Frame, FrameReader
from cloudverge_protocol.ids import PROTOCOL_VERSION
from cloudverge_protocol.messages import ErrorReply, FrameType, Hello, HelloReply, Message
from cloudverge_wire.frameclient import FrameClient
from cloudverge_wire.frameserver import FrameServer, Peer, serve_frames

CLUSTER, HISTORY = "c" * 32, "h" * 32


@pytest.fixture(
    scope="session",
    params=[("asyncio", {"use_uvloop": True}), ("asyncio", {"use_uvloop": False})],
    ids=["uvloop", "asyncio"],
)
def anyio_backend(request) -> Any:
    """Frames run on uvloop in servers; plain asyncio must do as well."""
    return request.param


@dataclass
class Identity:
    """Who the test token says one is."""

    token: str
    exp: float = field(default_factory=lambda: time.time() + 60)


class RawCaller:
    """Speaks frames byte by byte, or garbage."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._frames = FrameReader()
        self._ready: list[Frame] = []

    async def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def frame(self, timeout_s: float = 5.0) -> Frame | None:
        """The next frame, or None at the end of the stream."""
        async with asyncio.timeout(timeout_s):
            while not self._ready:
                data = await self.reader.read(65536)
                if not data:
                    return None
                self._ready += self._frames.feed(data)
        return self._ready.pop(0)

    async def error(self) -> ErrorReply:
        """The next frame, which must be an error."""
        frame = await self.frame()
        assert frame is not None
        reply = codec.decode_reply(FrameType.PING, frame)
        assert isinstance(reply, ErrorReply)
        return reply

    async def greet(self, token: str = "good", **fields: Any) -> Message:
        """HELLO; the reply, whatever it is."""
        version = fields.pop("version", PROTOCOL_VERSION)
        await self.send(codec.encode_request(FrameType.HELLO, 1, Hello(version, token, **fields)))
        frame = await self.frame()
        assert frame is not None
        return codec.decode_reply(FrameType.HELLO, frame)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class Frames:
    """Starts servers and callers, and closes them all at the end."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self.hellos: list[Hello] = []
        self.lives_s = 60.0

    async def authenticate(self, hello: Hello) -> object:
        self.hellos.append(hello)
        if not hello.token.startswith("good"):
            raise Denied(Code.UNAUTHORIZED, "some reason that must not show")
        return Identity(hello.token, time.time() + self.lives_s)

    def hello_reply(self) -> HelloReply:
        return HelloReply(PROTOCOL_VERSION, CLUSTER, HISTORY, "test", time.time_ns())

    async def serve(
        self,
        handle: Callable[[Peer, FrameType, Message, memoryview], Any],
        authenticate: Callable[[Hello], Awaitable[object]] | None = None,
        **options: Any,
    ) -> FrameServer:
        server = await serve_frames(
            "127.0.0.1",
            0,
            authenticate=authenticate or self.authenticate,
            hello_reply=self.hello_reply,
            handle=handle,
            **options,
        )
        self._stack.push_async_callback(server.close, 0.2)
        return server

    async def raw(self, server: FrameServer) -> RawCaller:
        caller = RawCaller(*await asyncio.open_connection("127.0.0.1", server.port))
        self._stack.push_async_callback(caller.close)
        return caller

    async def client(self, server: FrameServer, token: str = "good", **options: Any) -> FrameClient:
        client = await FrameClient.connect(
            "127.0.0.1", server.port, lambda: Hello(PROTOCOL_VERSION, token), **options
        )
        self._stack.callback(client.close)
        return client


@pytest.fixture
async def frames(anyio_backend) -> AsyncIterator[Frames]:
    async with contextlib.AsyncExitStack() as stack:
        yield Frames(stack)
