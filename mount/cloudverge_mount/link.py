"""A lasting link to one server: opens connections when needed, keeps the token fresh, reconnects.

Only calls marked idempotent are sent again after a connection was lost under them; what else may be repeated
is for the caller to know. A server that refused the connection is not tried again before a short pause that
doubles up to two seconds, so a dead server costs its callers an immediate error and not a connect each.
"""

import ssl
from collections.abc import Callable, Sequence

import trio

from cloudverge_mount.connection import Connection, HelloSource
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, Unavailable
from cloudverge_protocol.messages import FrameType, HelloReply, Message

GREET_EVERY_S = 40.0  # tickets live 60 s
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0


class Link:
    """Calls to one address. ``address`` is asked at each connect, so a server may move."""

    def __init__(
        self,
        address: Callable[[], tuple[str, int]],
        hello: HelloSource,
        nursery: trio.Nursery,
        *,
        tls: ssl.SSLContext | None = None,
        connect_timeout_s: float = 5.0,
        greet_every_s: float = GREET_EVERY_S,
        distrusted: Callable[[], None] | None = None,
    ) -> None:
        self._address = address
        self._hello = hello
        self._nursery = nursery
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._greet_every_s = greet_every_s
        self._distrusted = distrusted  # told that the token we have is not believed
        self._connection: Connection | None = None
        self._opening = trio.Lock()
        self._greeted_at = 0.0
        self._retry_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._last_error: CloudVergeError | None = None

    @property
    def connected(self) -> bool:
        """Whether a connection stands that has not failed yet."""
        return self._connection is not None and not self._connection.closed

    @property
    def server(self) -> HelloReply | None:
        """What the server that was connected to last said of itself."""
        return self._connection.server if self._connection is not None else None

    async def call(
        self,
        kind: FrameType,
        message: Message,
        body: Sequence[Buffer] = (),
        *,
        timeout_s: float = 30.0,
        idempotent: bool = False,
    ) -> tuple[Message, memoryview]:
        """As ``Connection.call``, connecting first if need be."""
        connection = await self._ready()
        try:
            return await connection.call(kind, message, body, timeout_s=timeout_s)
        except Unavailable as error:
            if not (idempotent and error.code == Code.UNREACHABLE):
                raise
        except Denied as error:
            if error.code != Code.UNAUTHORIZED:
                raise
            self.distrust()
        return await (await self._ready()).call(kind, message, body, timeout_s=timeout_s)

    def distrust(self) -> None:
        """The server does not believe our token any more: introduce ourselves again before the next call."""
        self._greeted_at = float("-inf")
        if self._distrusted is not None:
            self._distrusted()

    async def connection(self) -> Connection:
        """A standing connection, for callers whose calls must leave in the order they are made."""
        return await self._ready()

    async def _ready(self) -> Connection:
        connection = self._connection
        if connection is not None and not connection.closed and not self._greeting_due():
            return connection
        async with self._opening:
            connection = self._connection
            if connection is None or connection.closed:
                connection = await self._open()
            elif self._greeting_due():
                asked_at = trio.current_time()
                await connection.greet(self._hello, timeout_s=self._connect_timeout_s)
                self._greeted_at = asked_at
            return connection

    def _greeting_due(self) -> bool:
        return trio.current_time() > self._greeted_at + self._greet_every_s

    async def _open(self) -> Connection:
        now = trio.current_time()
        if now < self._retry_at and self._last_error is not None:
            raise type(self._last_error)(self._last_error.code, self._last_error.message)
        host, port = self._address()
        try:
            connection = await Connection.open(
                host, port, self._hello, self._nursery, tls=self._tls, timeout_s=self._connect_timeout_s
            )
        except CloudVergeError as error:
            self._last_error = error
            self._retry_at = trio.current_time() + self._pause_s
            self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)
            raise
        self._connection, self._greeted_at, self._pause_s = connection, now, FIRST_PAUSE_S
        return connection

    def close(self) -> None:
        """Close the connection; the next call would open another."""
        if self._connection is not None:
            self._connection.close()
