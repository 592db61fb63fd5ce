"""Routes of servers: what has ended, links, deleted spaces; and storage hosts that enter the cluster.

All but the enrolment take the join token, which is decided before any of this runs (``app``).
"""

from fastapi import APIRouter

from cloudverge_auth import enrolment, epochs
from cloudverge_auth.bodies import servers as bodies
from cloudverge_auth.bodies.fields import Fine, PathId
from cloudverge_auth.bodies.rights import LinkOpened, OpenLink
from cloudverge_auth.links import Asked
from cloudverge_auth.moments import seconds_of
from cloudverge_auth.routes.requests import refusals
from cloudverge_auth.services import Services
from cloudverge_protocol.ids import SpaceId


def make_server_routes(services: Services) -> APIRouter:
    """For who has the join token."""
    router = APIRouter(responses=refusals(401))

    @router.get("/v1/revocations")
    async def revocations() -> bodies.Revocations:
        """What ended within the last three minutes, and the spaces to be purged."""
        ended = await epochs.lately(services.pool)
        return bodies.Revocations(
            spaces={str(space): epoch for space, epoch in ended.spaces.items()},
            links=list(ended.links),
            deleted=list(ended.deleted),
        )

    @router.post("/v1/spaces/{space}/purged", responses=refusals(404))
    async def purged(space: PathId) -> Fine:
        """Say that nothing of a deleted space is left."""
        await epochs.purged(services.pool, SpaceId(space))
        return Fine()

    @router.post("/v1/links/open", responses=refusals(403, 404, 429))
    async def open_link(body: OpenLink) -> LinkOpened:
        """What a link opens for a visitor."""
        secret, password = body.secret.get_secret_value(), body.password.get_secret_value()
        opened = await services.links.open(Asked(secret, password, body.address, body.count))
        return LinkOpened(
            id=opened.id,
            space=opened.space,
            ino=opened.ino,
            name=opened.name,
            until=seconds_of(opened.until),
        )

    @router.post("/v1/nodes")
    async def make_code() -> bodies.NodeCode:
        """A one-time code with which a storage host may enter."""
        code, until = await enrolment.make_code(services.pool)
        return bodies.NodeCode(code=code, until=seconds_of(until))

    return router


def make_enrolment_routes(services: Services) -> APIRouter:
    """For anybody: the code is the token."""
    router = APIRouter(responses=refusals(400, 401, 409))

    @router.post("/v1/enrol")
    async def enrol(body: bodies.Enrol) -> bodies.Enrolled:
        """Trade a one-time code for a certificate and the join token."""
        code = body.code.get_secret_value()
        certificate = await enrolment.enrol(
            services.pool,
            services.authority,
            code,
            body.csr,
            body.host,
            body.name,
            has_ca=bool(services.ca_pem),
            taken=services.own_hosts,
        )
        return bodies.Enrolled(
            certificate=certificate,
            ca=services.ca_pem,
            join_token=services.join_token,
            metaserver_url=services.metaserver_url,
            cluster=services.ids.cluster,
        )

    return router
