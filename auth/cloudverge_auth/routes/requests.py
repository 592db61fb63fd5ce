"""What routes read from a request beside its body, and the refusals that their documentation declares."""

from typing import Any, Final

from fastapi import Request

from cloudverge_auth.signins import Caller
from cloudverge_wire.openapi import problems

OF_ALL: Final = (400, 413, 503, 504)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's ``responses`` of a route that may answer these beside OF_ALL."""
    return problems(*sorted({*OF_ALL, *statuses}))


def caller_of_request(request: Request) -> Caller:
    """Who has signed in: the gate has seen to it that somebody has."""
    caller = request.state.claims
    assert isinstance(caller, Caller)
    return caller


def address_of(request: Request) -> str:
    """Where a request came from."""
    return request.client.host if request.client else ""
