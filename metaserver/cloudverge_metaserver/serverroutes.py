"""HTTP for chunkservers: they register, and report every few seconds."""

import binascii
from base64 import b64decode, urlsafe_b64decode
from typing import Final

from fastapi import APIRouter, Request

from cloudverge_metaserver.bodies import Bytes64, Greeting, HeartbeatBody, RegisterBody
from cloudverge_metaserver.cluster import Cluster
from cloudverge_metaserver.servers import Heartbeat, Registration
from cloudverge_protocol.errors import Code, Denied, ProtocolFault
from cloudverge_protocol.ids import ChunkId, ServerId
from cloudverge_protocol.receipts import HEARTBEAT_HEADER
from cloudverge_wire.join import INVALID_MESSAGE
from cloudverge_wire.openapi import problems

JOINED: Final = "join"  # the claims of a caller with the join token
_REFUSALS: Final = problems(400, 401, 413, 500, 503, 504)


def make_server_routes(cluster: Cluster) -> APIRouter:
    """Those below /v1/servers/."""
    router = APIRouter(tags=["servers"])

    @router.post("/v1/servers/register", response_model=Greeting, responses=_REFUSALS | problems(403))
    async def register(request: Request, body: RegisterBody) -> object:
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

    @router.post(
        "/v1/servers/{server}/heartbeat", response_model=Greeting, responses=_REFUSALS | problems(403, 404)
    )
    async def heartbeat(request: Request, server: Bytes64, body: HeartbeatBody) -> object:
        _require_join(request)
        proof = request.headers.get(HEARTBEAT_HEADER, "")
        await cluster.servers.check_heartbeat(ServerId(server), await request.body(), proof)
        said = Heartbeat(body.free_bytes, body.capacity_bytes, body.open_bytes, body.chunks, body.full)
        await cluster.servers.beat(ServerId(server), said)
        for chunk in body.damaged:
            cluster.suspect(ServerId(server), ChunkId(chunk))
        return await cluster.greeting(ServerId(server))

    return router


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
