"""Errors on HTTP: the one translation of the error tree to a status and a body, for all three servers.

A body is ``{"code": NAME, "message": text}``, whoever refused: a route, the router, the parser of bodies, a
bug. No answer repeats what the caller sent (a password would come back), none shows an internal error's text.
"""

import json
import math
from typing import TYPE_CHECKING, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cloudverge_protocol.errors import CloudVergeError, Code, ProtocolFault, Refused, Unavailable

if TYPE_CHECKING:
    from starlette.types import Send

log = structlog.get_logger("cloudverge.http")

UNAUTHORIZED_BODY: Final = b'{"code":"UNAUTHORIZED","message":"a valid token is required"}'

_STATUS: Final = {
    Code.NOT_FOUND: 404,
    Code.EXISTS: 409,
    Code.INVALID: 400,
    Code.BUSY: 429,
    Code.UNAUTHORIZED: 401,
    Code.FORBIDDEN: 403,
    Code.READ_ONLY: 403,
    Code.FENCED: 409,
    Code.QUOTA: 507,
    Code.NO_SPACE: 507,
    Code.NO_CHUNK: 404,
    Code.TOO_BIG: 413,
    Code.TIMEOUT: 504,
    Code.UNREACHABLE: 503,
    Code.UNAVAILABLE: 503,
    Code.INTERNAL: 500,
}


def status_of(code: Code) -> int:
    """The HTTP status of an error; one that has none of its own is the caller's fault or a state in its way."""
    if code in _STATUS:
        return _STATUS[code]
    return 400 if 70 <= code < 80 else 409


def body_of(error: CloudVergeError) -> bytes:
    """The JSON body of an error."""
    return json.dumps({"code": error.code.name, "message": error.message}, separators=(",", ":")).encode()


def _extra_headers(error: CloudVergeError) -> dict[str, str]:
    headers = {"www-authenticate": "Bearer"} if error.code == Code.UNAUTHORIZED else {}
    if error.retry_after_s > 0:
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
    return headers


def response_of(error: CloudVergeError) -> Response:
    """The whole answer to a request that ended in ``error``."""
    return Response(
        body_of(error), status_of(error.code), _extra_headers(error), media_type="application/json"
    )


async def send_json(send: "Send", status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Answer from middleware."""
    fixed = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": fixed + headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: "Send", error: CloudVergeError) -> None:
    """Answer from middleware with an error."""
    headers = [(name.encode(), value.encode()) for name, value in _extra_headers(error).items()]
    await send_json(send, status_of(error.code), body_of(error), headers)


def _of_http(error: HTTPException) -> CloudVergeError:
    if error.status_code == 404:
        return Refused(Code.NOT_FOUND, "there is nothing at this path")
    return ProtocolFault(Code.BAD_REQUEST, str(error.detail))


def _of_validation(error: RequestValidationError) -> CloudVergeError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return ProtocolFault(Code.BAD_REQUEST, f"{place}: {first['msg']}")


def _route_of(request: Request) -> str:
    """The route's pattern: what the caller put in its place may be a secret."""
    return str(getattr(request.scope.get("route"), "path", "none"))


def answer_errors(app: FastAPI) -> None:
    """Make ``app`` answer every error as this module says."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, CloudVergeError)
        return response_of(error)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = response_of(_of_http(error))
        response.status_code = error.status_code
        return response

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return response_of(_of_validation(error))

    async def bug(request: Request, error: Exception) -> Response:
        log.error("request failed", method=request.method, route=_route_of(request), exc_info=error)
        return response_of(Unavailable(Code.INTERNAL, "internal error: the server's log has the details"))

    app.add_exception_handler(CloudVergeError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(Exception, bug)
