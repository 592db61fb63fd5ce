"""The HTTP edge: chunkservers register and report here, people and Prometheus look.

Behind the token gate every route but /healthz and /v1/keys. The join token opens what servers need, an identity
ticket what people may see; each gets the same 401 for the other's routes as a stranger.
"""

import binascii
from base64 import b64decode, urlsafe_b64decode
from typing import Annotated, Any

import pydantic
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Receive, Scope, Send

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.cluster import Cluster
from cloudverge_metaserver.servers import Heartbeat, Registration, ServerRow
from cloudverge_protocol.errors import Code, Denied, ProtocolFault
from cloudverge_protocol.ids import ID_MAX, ChunkId, ServerId
from cloudverge_wire.bodylimit import LimitBody
from cloudverge_wire.gate import RequireToken
from cloudverge_wire.httperrors import answer_errors, send_error
from cloudverge_wire.join import INVALID_MESSAGE, check_join_token

PUBLIC = ("/healthz", "/v1/keys")
FOR_SERVERS = "/v1/servers/"  # all below this path
JOINED = "join"  # the claims of a caller with the join token

Bytes64 = Annotated[int, pydantic.Field(ge=0, le=ID_MAX)]


class RegisterBody(pydantic.BaseModel):
    """A chunkserver introduces itself."""

    server_uuid: Annotated[str, pydantic.Field(min_length=8, max_length=64)]
    host: Annotated[str, pydantic.Field(min_length=1, max_length=255)]
    frame_port: Annotated[int, pydantic.Field(ge=1, le=65535)]
    http_url: Annotated[str, pydantic.Field(max_length=1024)]
    receipt_key: Annotated[str, pydantic.Field(max_length=128)]
    capacity_bytes: Bytes64
    free_bytes: Bytes64
    rack: Annotated[str, pydantic.Field(max_length=255)] = ""
    cluster: str = ""


class HeartbeatBody(pydantic.BaseModel):
    """A chunkserver reports."""

    free_bytes: Bytes64
    capacity_bytes: Bytes64
    open_bytes: Bytes64 = 0
    chunks: Bytes64 = 0
    damaged: Annotated[list[Bytes64], pydantic.Field(max_length=100_000)] = []
    full: bool = False


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


def make_app(cluster: Cluster) -> ASGIApp:
    """The application, gate included."""
    app = FastAPI(title="CloudVerge metaserver", docs_url=None, redoc_url=None, openapi_url=None)
    answer_errors(app)
    _add_public(app, cluster)
    _add_for_servers(app, cluster)
    _add_for_people(app, cluster)

    async def verify(token: str) -> object:
        try:
            check_join_token(token, cluster.join_token)
        except Denied:
            return await cluster.keys.identify(token)
        return JOINED

    return RequireToken(_RequireJoin(LimitBody(app)), public=PUBLIC, verify=verify)


def _add_public(app: FastAPI, cluster: Cluster) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        async with cluster.database.connection() as connection:
            await connection.fetchval("select 1")
        return {"status": "ok"}

    @app.get("/v1/keys")
    async def keys() -> dict[str, object]:
        return {"cluster": cluster.ids.cluster, "keys": cluster.ring.to_public()}


def _add_for_servers(app: FastAPI, cluster: Cluster) -> None:
    @app.post("/v1/servers/register")
    async def register(request: Request, body: RegisterBody) -> dict[str, object]:
        _require_join(request)
        if body.cluster and body.cluster != cluster.ids.cluster:
            raise ProtocolFault(Code.WRONG_CLUSTER, f"this is cluster {cluster.ids.cluster}")
        server = await cluster.servers.register(
            Registration(
                body.server_uuid,
                body.host,
                body.frame_port,
                body.http_url,
                body.rack,
                _key_of(body.receipt_key),
                body.capacity_bytes,
                body.free_bytes,
            )
        )
        return await cluster.greeting(server)

    @app.post("/v1/servers/{server}/heartbeat")
    async def heartbeat(request: Request, server: Bytes64, body: HeartbeatBody) -> dict[str, object]:
        _require_join(request)
        said = Heartbeat(body.free_bytes, body.capacity_bytes, body.open_bytes, body.chunks, body.full)
        await cluster.servers.beat(ServerId(server), said)
        for chunk in body.damaged:
            cluster.suspect(ServerId(server), ChunkId(chunk))
        return await cluster.greeting(ServerId(server))


def _add_for_people(app: FastAPI, cluster: Cluster) -> None:
    @app.get("/v1/servers")
    async def servers(request: Request) -> dict[str, object]:
        return {"servers": [_shown(row) for row in await cluster.servers.all()]}

    @app.get("/v1/status")
    async def status(request: Request) -> dict[str, object]:
        rows = await cluster.servers.all()
        return {
            "cluster": cluster.ids.cluster,
            "history": cluster.ids.history,
            "replicas": cluster.replicas,
            "free_bytes": sum(row.state.free_bytes for row in rows if not row.state.silent),
            "servers": [_shown(row) for row in rows],
            "chunks": await cluster.chunk_counts(),
        }

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        claims = request.state.claims
        if claims != JOINED and not (isinstance(claims, Identity) and claims.role == "owner"):
            raise Denied(Code.FORBIDDEN, "metrics are for the operator")
        return Response(await cluster.metrics(), media_type=CONTENT_TYPE_LATEST)


def _require_join(request: Request) -> None:
    if request.state.claims != JOINED:
        raise Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)


def _key_of(text: str) -> bytes:
    """A key in base64, of either alphabet, padded or not."""
    padded = text + "=" * (-len(text) % 4)
    try:
        return urlsafe_b64decode(padded) if "-" in text or "_" in text else b64decode(padded, validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolFault(Code.BAD_REQUEST, "the receipt key is not base64") from None


def _shown(row: ServerRow) -> dict[str, Any]:
    """A server as people see it: nothing secret."""
    state = row.state
    word = "silent" if state.silent else "draining" if state.draining else "full" if state.full else "up"
    return {
        "id": state.server,
        "name": f"chunkserver:{state.server}",
        "uuid": row.uuid,
        "host": state.host,
        "frame_port": state.port,
        "rack": state.rack,
        "state": word,
        "capacity_bytes": row.capacity_bytes,
        "free_bytes": state.free_bytes,
        "chunks": row.chunks,
        "last_seen_s": round(row.unheard_s, 1),
    }
