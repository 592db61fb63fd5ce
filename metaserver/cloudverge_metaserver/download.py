"""Sending a file to somebody who may be slow, leave, or lose the right to it: a response that can be cut.

Bounded: one piece is being sent, in small slices, each only when the connection has taken the ones before; a caller
that takes nothing for ``STALLED_S`` is cut off. While it runs the right to it is looked at every ``LOOK_EVERY_S``;
when that has ended the connection is aborted, with whatever had been handed to it and not left yet.

So a body that was sent whole is the file; one that was cut is shorter than its Content-Length says.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Final

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import CloudVergeError
from cloudverge_wire.boundedhttp import abort

_log = structlog.get_logger("cloudverge.metaserver")

AT_ONCE: Final = 64
AT_ONCE_OF_ONE: Final = 16  # so that nobody keeps everybody else from theirs by one link
SLICE_BYTES: Final = 128 * 1024
STALLED_S: Final = 30.0
LOOK_EVERY_S: Final = 0.25


class Slots:
    """How many downloads this process has under way, altogether and of each link."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    def take(self, link: str) -> bool:
        """One more, if there is room for it."""
        if self._taken.total() >= AT_ONCE or self._taken[link] >= AT_ONCE_OF_ONE:
            return False
        self._taken[link] += 1
        return True

    def give_back(self, link: str) -> None:
        """One less."""
        self._taken[link] -= 1
        if not self._taken[link]:
            del self._taken[link]


class Download(Response):
    """``pieces`` as the body; ``ended`` says that the right to it is gone; ``done`` is called at the end, always."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        pieces: AsyncGenerator[Buffer, None],
        ended: Callable[[], bool],
        done: Callable[[], None],
    ) -> None:
        self.status_code, self.background = status, None
        self.init_headers(headers)
        self._pieces, self._ended, self._done = pieces, ended, done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        watching = asyncio.ensure_future(self._watch(receive))
        try:
            await asyncio.wait((sending, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            watching.cancel()
            whole, why = await asyncio.gather(sending, watching, return_exceptions=True)
            self._done()
            if whole is not True:
                _log.info("download cut", reason=_told(whole, why))
                abort(scope)
                await asyncio.sleep(0)  # the connection learns of it before the server looks at what was sent
        if isinstance(whole, Exception) and not isinstance(whole, CloudVergeError | TimeoutError):
            _log.error("download failed", exc_info=whole)

    async def _send(self, send: Send) -> bool:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._pieces):
            async for piece in self._pieces:
                view = memoryview(piece)
                for start in range(0, len(view), SLICE_BYTES):
                    await self._send_slice(send, view[start : start + SLICE_BYTES], more=True)
        await self._send_slice(send, b"", more=False)
        return True

    async def _send_slice(self, send: Send, body: Buffer, *, more: bool) -> None:
        async with asyncio.timeout(STALLED_S):
            await send({"type": "http.response.body", "body": body, "more_body": more})

    async def _watch(self, receive: Receive) -> str:
        """Until there is a reason to stop."""
        leaving = asyncio.ensure_future(_left(receive))
        try:
            while not self._ended():
                if (await asyncio.wait((leaving,), timeout=LOOK_EVERY_S))[0]:
                    return "the caller has gone"
        finally:
            leaving.cancel()
        return "the link has ended"


def _told(whole: object, why: object) -> str:
    if isinstance(whole, CloudVergeError):
        return whole.message
    if isinstance(whole, TimeoutError):
        return f"the caller took nothing for {STALLED_S:g} s"
    return why if isinstance(why, str) else "the server stops"


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
