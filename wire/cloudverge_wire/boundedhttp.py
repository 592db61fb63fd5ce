"""uvicorn's HTTP parser with bounds: a head that ends, in size and in time.

uvicorn's httptools protocol keeps headers (and trailers) for as long as they come, from anybody. Here what is
received of a request beside its body may not pass ``HEAD_BYTES``, and a head must be whole ``HEAD_WITHIN_S``
after its first byte, or after the connection was made. Who breaks that is cut off.

An application may cut a connection itself in the middle of its answer: ``abort``.
"""

import asyncio
from collections.abc import MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 1024
HEAD_WITHIN_S = 10.0

_ABORT = "cloudverge.abort"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def abort(scope: MutableMapping[str, Any]) -> None:
    """Cut the connection of this request, with all that was not sent yet. Nothing can be answered any more."""
    scope["extensions"][_ABORT]["call"]()


class BoundedHttpProtocol(HttpToolsProtocol):
    """One HTTP connection."""

    _beside_body_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._beside_body_bytes += len(data)
        super().data_received(data)
        if self._beside_body_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {_ABORT: {"call": self.transport.abort}}
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._beside_body_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._beside_body_bytes = 0
        super().on_message_complete()

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_WITHIN_S, self._give_up)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        self.transport.close()
