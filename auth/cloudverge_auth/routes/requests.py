"""What routes read from a request beside its body, and the refusals that their documentation declares."""

from typing import Any, Final

from fastapi import Request

from cloudverge_auth.bodies.fields import Error
from cloudverge_auth.signins import Caller

_MEANING: Final = {
    400: "The request is malformed.",
    401: "A valid token is required.",
    403: "The caller may not do this.",
    404: "There is none, or it is not the caller's.",
    409: "Something is in the way.",
    413: "The body is too large.",
    429: "Too many attempts; Retry-After says when to come back.",
    503: "What the server needs is away; try again.",
    504: "The body did not arrive in time.",
    507: "There is no room for more.",
}
OF_ALL: Final = (400, 413, 503, 504)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's ``responses`` of a route that may answer these beside OF_ALL."""
    return {
        status: {"model": Error, "description": _MEANING[status]} for status in sorted({*OF_ALL, *statuses})
    }


def caller_of_request(request: Request) -> Caller:
    """Who has signed in: the gate has seen to it that somebody has."""
    caller = request.state.claims
    assert isinstance(caller, Caller)
    return caller


def address_of(request: Request) -> str:
    """Where a request came from."""
    return request.client.host if request.client else ""
