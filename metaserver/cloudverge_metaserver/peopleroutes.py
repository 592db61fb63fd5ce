"""HTTP for people with an identity ticket: the cluster's state, paths, and the log of what was done."""

from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.auditlog import LIMIT_MAX, Asked, AuditLog
from cloudverge_metaserver.bodies import Bytes64, LogOut, PathOut, ServersOut, StatusOut
from cloudverge_metaserver.cluster import Cluster
from cloudverge_metaserver.paths import Paths
from cloudverge_metaserver.serverroutes import JOINED
from cloudverge_metaserver.servers import ServerRow
from cloudverge_protocol.errors import Code, Denied
from cloudverge_protocol.ids import ROOT_INODE, InodeId
from cloudverge_wire.openapi import problems, text

_REFUSALS: Final = problems(401, 500, 503)


def make_people_routes(cluster: Cluster, paths: Paths, log: AuditLog) -> APIRouter:
    """Those behind the gate; the join token opens those about the cluster too."""
    router = APIRouter(tags=["people"])
    _add_cluster(router, cluster)
    _add_space(router, paths, log)
    return router


def _add_cluster(router: APIRouter, cluster: Cluster) -> None:

    @router.get("/v1/servers", response_model=ServersOut, responses=_REFUSALS)
    async def servers() -> dict[str, object]:
        return {"servers": [_shown(row) for row in await cluster.servers.all()]}

    @router.get("/v1/status", response_model=StatusOut, responses=_REFUSALS)
    async def status() -> dict[str, object]:
        rows = await cluster.servers.all()
        return {
            "cluster": cluster.ids.cluster,
            "history": cluster.ids.history,
            "replicas": cluster.replicas,
            "free_bytes": sum(row.state.free_bytes for row in rows if not row.state.silent),
            "servers": [_shown(row) for row in rows],
            "chunks": await cluster.chunk_counts(),
        }

    @router.get(
        "/metrics",
        response_class=Response,
        responses=_REFUSALS | problems(403) | {200: text("Prometheus' text format")},
    )
    async def metrics(request: Request) -> Response:
        claims = request.state.claims
        if claims != JOINED and not (isinstance(claims, Identity) and claims.role == "owner"):
            raise Denied(Code.FORBIDDEN, "metrics are for the operator")
        return Response(await cluster.metrics(), media_type=CONTENT_TYPE_LATEST)


def _add_space(router: APIRouter, paths: Paths, log: AuditLog) -> None:
    @router.get("/v1/path", responses=_REFUSALS | problems(400, 403, 404))
    async def path(request: Request, path: str = "") -> PathOut:
        return await paths.find(_person(request), _raw(request, "path"))

    @router.get("/v1/log", responses=_REFUSALS | problems(400, 403, 404))
    async def show_log(
        request: Request,
        ino: Bytes64 = ROOT_INODE,
        below: bool = True,
        before: Bytes64 = 0,
        limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = 100,
    ) -> LogOut:
        return await log.page(_person(request), Asked(InodeId(ino), below, before, limit))


def _person(request: Request) -> Identity:
    claims = request.state.claims
    if not isinstance(claims, Identity):
        raise Denied(Code.FORBIDDEN, "this is about one space: it takes an identity ticket")
    return claims


def _raw(request: Request, field: str) -> str:
    """A field of the query with bytes that are no UTF-8 kept, as the file system's names have them."""
    query = request.scope["query_string"].decode("latin-1")
    values: dict[str, str] = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
    return values.get(field, "")


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
