"""The assembled application: gate, body limit, routes, errors, in this order from the outside.

The gate stands before everything but the paths of ``routes.PUBLIC``: see ``cloudverge_wire.gate``.
"""

from typing import TYPE_CHECKING

from fastapi import FastAPI

from cloudverge_auth.routes import PUBLIC, make_member_routes, make_public_routes
from cloudverge_auth.services import Services
from cloudverge_auth.signins import Caller, caller_of
from cloudverge_auth.tokens import verify_access
from cloudverge_wire.bodylimit import LimitBody
from cloudverge_wire.gate import RequireToken
from cloudverge_wire.httperrors import answer_errors

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def make_api(services: Services) -> FastAPI:
    """Routes and errors alone, for the documentation and for tests that enumerate them."""
    api = FastAPI(title="CloudVerge auth", redoc_url=None, swagger_ui_oauth2_redirect_url=None)
    api.include_router(make_public_routes(services))
    api.include_router(make_member_routes(services))
    answer_errors(api)
    return api


def make_app(services: Services) -> "ASGIApp":
    """What is served."""

    async def verify(token: str) -> Caller:
        access = verify_access(services.keys.ring, token, services.ids.cluster, services.now_s())
        return await caller_of(services.pool, access)

    return RequireToken(LimitBody(make_api(services)), public=PUBLIC, verify=verify)
