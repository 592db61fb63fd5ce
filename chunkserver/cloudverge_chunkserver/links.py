"""Pooled frame connections to other chunkservers.

Requests of one link leave in the order of ``begin``, also those that come while it is still connecting: the
chain relies on it. A link that broke connects again at the next request. All waits are bounded: ``CONNECT_S``
to connect, ``PROGRESS_S`` for an answer.

Where the next server of a chain is, a mount says. Its ticket names the places that may be (``rights``); beside that
``hosts``, from the metaserver, keeps us (and our server ticket) from a machine that is not that server's.
"""

import asyncio
import ssl as tls
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, Unavailable
from cloudverge_protocol.ids import ServerId
from cloudverge_protocol.messages import FrameType, Hello, Message, Place
from cloudverge_wire.frameclient import FrameClient, Reply

CONNECT_S: Final = 5.0
PROGRESS_S: Final = 10.0
LINKS_MAX: Final = 256

Address = tuple[str, int]


class _Waiting(NamedTuple):
    kind: FrameType
    message: Message
    body: Sequence[Buffer]
    answer: "asyncio.Future[Reply]"


class Link:
    """The connection to one peer, made when needed."""

    def __init__(self, address: Address, hello: Callable[[], Hello], ssl: tls.SSLContext | None) -> None:
        self._address = address
        self._hello = hello
        self._ssl = ssl
        self._client: FrameClient | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: list[_Waiting] = []

    @property
    def idle(self) -> bool:
        """Whether closing it now would disturb nobody who has not sent yet."""
        return self._connecting is None

    def begin(
        self, kind: FrameType, message: Message, body: Sequence[Buffer] = ()
    ) -> "asyncio.Future[Reply]":
        """Send a request, now or as soon as the peer is reached; the future has the reply or an error."""
        client = self._client
        if client is not None and not client.closed and self._connecting is None:
            return client.begin(kind, message, body, timeout_s=PROGRESS_S)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(kind, message, body, answer))
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
        return answer

    async def _connect(self) -> None:
        try:
            host, port = self._address
            self._client = await FrameClient.connect(
                host, port, self._hello, ssl=self._ssl, timeout_s=CONNECT_S
            )
        except CloudVergeError as error:
            self._give_up(error)
        except Exception as error:  # a malformed address: the caller's, not ours
            self._give_up(Unavailable(Code.UNREACHABLE, f"{self._address[0]}: {error}"))
        else:
            self._send_waiting(self._client)
        finally:
            self._connecting = None

    def _give_up(self, error: CloudVergeError) -> None:
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            if not request.answer.done():
                request.answer.set_exception(type(error)(error.code, error.message))

    def _send_waiting(self, client: FrameClient) -> None:
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            sent = client.begin(request.kind, request.message, request.body, timeout_s=PROGRESS_S)
            sent.add_done_callback(partial(_hand_on, request.answer))

    def close(self) -> None:
        """Close; requests under way fail with UNREACHABLE."""
        if self._connecting is not None:
            self._connecting.cancel()
        self._give_up(Unavailable(Code.UNREACHABLE, "this chunkserver is closing its links"))
        if self._client is not None:
            self._client.close()


def _hand_on(answer: "asyncio.Future[Reply]", done: "asyncio.Future[Reply]") -> None:
    if answer.done():
        return
    error = done.exception()
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())


class Links:
    """One link for each address, the least recently used closed beyond ``LINKS_MAX``."""

    def __init__(self, hello: Callable[[], Hello], ssl: tls.SSLContext | None = None) -> None:
        self._hello = hello
        self._ssl = ssl
        self._links: OrderedDict[Address, Link] = OrderedDict()
        self.hosts: Mapping[ServerId, str] | None = None  # None: the metaserver has not said

    def check_host(self, place: Place) -> None:
        """Refuse an address that is not the machine of the server it names, or of any, if that one is new."""
        if self.hosts is None:
            return
        known = self.hosts.get(place.server)
        if place.host != known and (known is not None or place.host not in self.hosts.values()):
            raise Denied(Code.FORBIDDEN, f"chunkserver {place.server} is not known at {place.host}")

    def to(self, place: Place) -> Link:
        """The link to ``place``."""
        address = (place.host, place.port)
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(address, self._hello, self._ssl)
            if len(self._links) > LINKS_MAX:
                self._links.popitem(last=False)[1].close()
        self._links.move_to_end(address)
        return link

    def close(self) -> None:
        """Close all."""
        for link in self._links.values():
            link.close()
        self._links.clear()
