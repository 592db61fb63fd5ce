"""Bounded request bodies: ASGI middleware that reads a body whole before the application runs.

So no route can be made to hold more than ``limit_bytes``, or to wait longer than ``within_s`` for a body.
Stands behind the token gate: a stranger's body is not read at all.
"""

import asyncio
from typing import TYPE_CHECKING

from cloudverge_protocol.errors import Code, Refused, Unavailable
from cloudverge_wire.httperrors import send_error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LIMIT_BYTES = 1024 * 1024
WITHIN_S = 30.0


class LimitBody:
    """Answers 413 to a body over the limit and 504 to one that does not come."""

    def __init__(self, app: "ASGIApp", *, limit_bytes: int = LIMIT_BYTES, within_s: float = WITHIN_S) -> None:
        self._app, self._limit_bytes, self._within_s = app, limit_bytes, within_s

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._within_s):
                first = await self._read(scope, receive)
        except Refused as error:
            await send_error(send, error)
            return
        except TimeoutError:
            await send_error(send, Unavailable(Code.TIMEOUT, "the request's body did not arrive in time"))
            return
        await self._app(scope, _replay(first, receive), send)

    async def _read(self, scope: "Scope", receive: "Receive") -> "Message":
        if _announced(scope) > self._limit_bytes:
            raise self._too_large()
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return dict(message)  # the caller has gone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._limit_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return {"type": "http.request", "body": b"".join(parts), "more_body": False}

    def _too_large(self) -> Refused:
        return Refused(Code.TOO_BIG, f"the request's body is over {self._limit_bytes} bytes")


def _has_body(scope: "Scope") -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


def _announced(scope: "Scope") -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _replay(first: "Message", receive: "Receive") -> "Receive":
    """A ``receive`` that gives ``first``, then whatever comes."""
    waiting = [first]

    async def replay() -> "Message":
        return waiting.pop() if waiting else await receive()

    return replay
