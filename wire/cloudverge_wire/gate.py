"""The token gate before every HTTP route: ASGI middleware that stands before routing and parsing.

FastAPI answers 404, 405 and 422 before any dependency runs, so a check inside a route would tell a stranger
which routes and fields exist. Here a request without a valid token gets one fixed 401, whatever its path,
method or body; the body is not read. Only the paths named ``public`` pass, compared exactly, and those that
begin with one of ``public_below``: whoever names one answers everything below it.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any

from cloudverge_protocol.errors import CloudVergeError, Code, Denied
from cloudverge_wire.httperrors import UNAUTHORIZED_BODY, send_error, send_json

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

MAX_HEADER_BYTES = 4096 + len("Bearer ")
Verify = Callable[[str], Awaitable[object]]


def bearer_of(headers: Collection[tuple[bytes, bytes]]) -> str:
    """The one bearer token in the headers; "" if there is none, or more than one Authorization header."""
    values = [value for name, value in headers if name.lower() == b"authorization"]
    if len(values) != 1 or len(values[0]) > MAX_HEADER_BYTES or not values[0].isascii():
        return ""
    scheme, _, token = values[0].decode().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class RequireToken:
    """Lets a request through with ``request.state.claims`` set to what ``verify(token)`` returned.

    ``verify`` raises Denied(UNAUTHORIZED) for a token that is not valid; another CloudVergeError (the keys
    cannot be had just now) is answered as such.
    """

    def __init__(
        self, app: "ASGIApp", *, public: Collection[str], verify: Verify, public_below: tuple[str, ...] = ()
    ) -> None:
        self._app, self._public, self._verify = app, frozenset(public), verify
        self._public_below = public_below

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and self._is_public(scope["path"])):
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._check(scope, receive, send)

    def _is_public(self, path: str) -> bool:
        return path in self._public or path.startswith(self._public_below)

    async def _check(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        try:
            claims = await self._claims(scope)
        except CloudVergeError as error:
            if error.code == Code.UNAUTHORIZED:
                await send_json(send, 401, UNAUTHORIZED_BODY, [(b"www-authenticate", b"Bearer")])
            else:
                await send_error(send, error)
            return
        state: dict[str, Any] = {**scope.get("state", {}), "claims": claims}
        await self._app({**scope, "state": state}, receive, send)

    async def _claims(self, scope: "Scope") -> object:
        token = bearer_of(scope["headers"])
        if not token:
            raise Denied(Code.UNAUTHORIZED)
        return await self._verify(token)
