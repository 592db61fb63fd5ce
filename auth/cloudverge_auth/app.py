"""The assembled application: gate, doors, body limit, routes, errors, in this order from the outside.

The gate (``cloudverge_wire.gate``) stands before everything but the paths of ``routes.PUBLIC`` and lets two kinds
of tokens in: access tokens and the join token. Behind it, the doors keep each from the routes of the other, and
from an administrator's routes who is none; all before a body is read.
"""

import hmac
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI

from cloudverge_auth.admin import FOR_ADMINISTRATORS
from cloudverge_auth.routes import ADMIN, PUBLIC, is_for_servers
from cloudverge_auth.routes.admin import make_admin_routes
from cloudverge_auth.routes.entry import make_entry_routes
from cloudverge_auth.routes.people import make_people_routes
from cloudverge_auth.routes.rights import make_right_routes
from cloudverge_auth.routes.servers import make_enrolment_routes, make_server_routes
from cloudverge_auth.routes.spaces import make_space_routes
from cloudverge_auth.services import Services
from cloudverge_auth.signins import Caller, caller_of
from cloudverge_auth.tokens import INVALID_MESSAGE, verify_access
from cloudverge_protocol.errors import Code, Denied
from cloudverge_wire.bodylimit import LimitBody
from cloudverge_wire.gate import RequireToken
from cloudverge_wire.httperrors import answer_errors, send_error
from cloudverge_wire.openapi import describe

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

JOINED: Final = "join"  # the claims of who has the join token


class Doors:
    """Sends who holds the wrong kind of token away, as the gate does, and who is no administrator with a word."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" and scope["path"] not in PUBLIC else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await send_error(send, refusal)

    @staticmethod
    def _refusal(scope: "Scope") -> Denied | None:
        claims = scope["state"]["claims"]
        if (claims == JOINED) != is_for_servers(scope["path"]):
            return Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)
        if scope["path"].startswith(ADMIN) and not (isinstance(claims, Caller) and claims.admin):
            return Denied(Code.FORBIDDEN, FOR_ADMINISTRATORS)
        return None


def make_api(services: Services) -> FastAPI:
    """Routes and errors alone, for the documentation and for tests that enumerate them."""
    api = FastAPI(
        title="CloudVerge auth", redoc_url=None, swagger_ui_oauth2_redirect_url=None, redirect_slashes=False
    )
    for make in (
        make_entry_routes,
        make_enrolment_routes,
        make_people_routes,
        make_space_routes,
        make_right_routes,
        make_admin_routes,
        make_server_routes,
    ):
        api.include_router(make(services))
    answer_errors(api)
    describe(api, public=PUBLIC, token="access token of /v1/login; on routes for servers the join token")  # noqa: S106
    return api


def make_app(services: Services) -> "ASGIApp":
    """What is served."""

    async def verify(token: str) -> object:
        if services.join_token and hmac.compare_digest(token.encode(), services.join_token.encode()):
            return JOINED
        access = verify_access(services.keys.ring, token, services.ids.cluster, services.now_s())
        return await caller_of(services.pool, access)

    return RequireToken(Doors(LimitBody(make_api(services))), public=PUBLIC, verify=verify)
