"""HTTP for people with an identity ticket: the cluster's state, paths, and the log of what was done."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.bodies import ServersOut, StatusOut
from cloudverge_metaserver.cluster import Cluster
from cloudverge_metaserver.serverroutes import JOINED
from cloudverge_metaserver.servers import ServerRow
from cloudverge_protocol.errors import Code, Denied
from cloudverge_wire.openapi import problems, text

_REFUSALS: Final = problems(401, 500, 503)


def make_people_routes(cluster: Cluster) -> APIRouter:
    """Those behind the gate; the join token opens them too."""
    router = APIRouter(tags=["people"])

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

    return router


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
