"""The HTTP edge put together: chunkservers register and report here, people and Prometheus look, links are opened.

Behind the token gate every route but ``PUBLIC`` and those below ``LINKS``, whose secret is the right. The join
token opens what servers need, an identity ticket what people may see; each gets the same 401 for the other's
routes as a stranger.
"""

from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from cloudverge_metaserver.auditlog import AuditLog
from cloudverge_metaserver.cluster import Cluster
from cloudverge_metaserver.gateway import LinkGateway, absent_page
from cloudverge_metaserver.paths import Paths
from cloudverge_metaserver.peopleroutes import make_people_routes
from cloudverge_metaserver.publicroutes import LINK, LINK_FILE, make_public_routes
from cloudverge_metaserver.serverroutes import JOINED, make_server_routes
from cloudverge_protocol.errors import Code, Denied
from cloudverge_wire.bodylimit import LimitBody
from cloudverge_wire.gate import RequireToken
from cloudverge_wire.httperrors import answer_errors, send_error
from cloudverge_wire.join import INVALID_MESSAGE, check_join_token
from cloudverge_wire.openapi import describe

PUBLIC: Final = ("/healthz", "/v1/keys", "/docs", "/openapi.json")
LINKS: Final = "/l/"  # all below this path is public
FOR_SERVERS: Final = "/v1/servers/"  # all below this path
STRANGERS_BODY_BYTES: Final = 8 * 1024
STRANGERS_BODY_WITHIN_S: Final = 10.0


@dataclass
class ForPeople:
    """What people's routes need beside the cluster."""

    gateway: LinkGateway
    paths: Paths
    log: AuditLog


class _RequireJoin:
    """Sends who is no server away from the servers' paths, before the body is read (as the gate does)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["path"].startswith(FOR_SERVERS)
            and scope["state"]["claims"] != JOINED
        ):
            await send_error(send, Denied(Code.UNAUTHORIZED, INVALID_MESSAGE))
        else:
            await self._app(scope, receive, send)


class _LimitStrangers:
    """Small bodies and little patience for who needs no token; what can be no link's path gets no further."""

    def __init__(self, app: ASGIApp) -> None:
        self._strict = LimitBody(app, limit_bytes=STRANGERS_BODY_BYTES, within_s=STRANGERS_BODY_WITHIN_S)
        self._app = LimitBody(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(LINKS):
            await self._app(scope, receive, send)
        elif scope["path"].isprintable():
            await self._strict(scope, receive, send)
        else:
            await absent_page()(scope, receive, send)


def make_api(cluster: Cluster, people: ForPeople) -> FastAPI:
    """Routes and errors alone, for the description and for tests that enumerate them."""
    api = FastAPI(title="CloudVerge metaserver", redoc_url=None, swagger_ui_oauth2_redirect_url=None)
    answer_errors(api)
    api.include_router(make_public_routes(cluster, people.gateway))
    api.include_router(make_server_routes(cluster))
    api.include_router(make_people_routes(cluster, people.paths, people.log))
    describe(
        api,
        public=(*PUBLIC, LINK, LINK_FILE),
        token="identity ticket of auth's /v1/tickets; below /v1/servers/ the join token",  # noqa: S106
    )
    return api


def make_app(cluster: Cluster, people: ForPeople) -> ASGIApp:
    """The application, gate included."""

    async def verify(token: str) -> object:
        try:
            check_join_token(token, cluster.join_token)
        except Denied:
            return await cluster.keys.identify(token)
        return JOINED

    app = _RequireJoin(_LimitStrangers(make_api(cluster, people)))
    return RequireToken(app, public=PUBLIC, public_below=(LINKS,), verify=verify)
