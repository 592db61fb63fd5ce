"""HTTP for strangers: health, the published keys, and public links, whose secret is the right."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from cloudverge_metaserver.bodies import Keys
from cloudverge_metaserver.cluster import Cluster
from cloudverge_metaserver.gateway import LinkGateway
from cloudverge_wire.openapi import Health, problems

LINK: Final = "/l/{secret}"
LINK_FILE: Final = "/l/{secret}/file"

_HTML: Final[dict[str, Any]] = {"text/html": {"schema": {"type": "string"}}}
_BYTES: Final[dict[str, Any]] = {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
}
_ABSENT: Final[dict[int | str, dict[str, Any]]] = {
    404: {"description": "The link opens nothing (any more)", "content": _HTML},
    429: {"description": "Too many passwords were tried", "content": _HTML},
    503: {"description": "Not just now", "content": _HTML},
    **problems(500),
}
_PAGE: Final = _ABSENT | {200: {"description": "The file, or a form for the password", "content": _HTML}}
_UNLOCK: Final = (
    _ABSENT
    | problems(413, 504)
    | {
        303: {"description": "Back to the page, with a cookie"},
        403: {"description": "Another password is needed", "content": _HTML},
    }
)
_FILE: Final = _ABSENT | {
    200: {"description": "The file", "content": _BYTES},
    206: {"description": "The range of it that was asked for", "content": _BYTES},
    304: {"description": "The caller has this version"},
    401: {"description": "A password is needed, by cookie or HTTP Basic", "content": _HTML},
    412: {"description": "The file is another version by now"},
    416: {"description": "The file does not reach that far"},
}
_FORM: Final = {
    "requestBody": {
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {"type": "object", "properties": {"password": {"type": "string"}}}
            }
        }
    }
}


def make_public_routes(cluster: Cluster, gateway: LinkGateway) -> APIRouter:
    """Those that the gate lets through."""
    router = APIRouter(tags=["public"])

    @router.get("/healthz", responses=problems(500, 503))
    async def healthz() -> Health:
        async with cluster.database.connection() as connection:
            await connection.fetchval("select 1")
        return Health()

    @router.get("/v1/keys", responses=problems(500))
    async def keys() -> Keys:
        return Keys(cluster=cluster.ids.cluster, keys=cluster.ring.to_public())

    @router.head(LINK_FILE, response_class=Response, responses=_FILE)
    @router.get(LINK_FILE, response_class=Response, responses=_FILE)
    async def link_file(request: Request, secret: str) -> Response:
        return await gateway.file(request, secret)

    # ":path": whatever else is asked for below /l/ gets the page of links that open nothing.
    @router.head("/l/{secret:path}", response_class=Response, responses=_PAGE)
    @router.get("/l/{secret:path}", response_class=Response, responses=_PAGE)
    async def link(request: Request, secret: str) -> Response:
        return await gateway.page(request, secret)

    @router.post(
        "/l/{secret:path}", response_class=Response, status_code=303, responses=_UNLOCK, openapi_extra=_FORM
    )
    async def link_unlock(request: Request, secret: str) -> Response:
        return await gateway.unlock(request, secret)

    return router
