"""Routes of tickets, grants, machine tokens and links."""

from fastapi import APIRouter, Request

from cloudverge_auth import grants, tickets
from cloudverge_auth.bodies import rights as bodies
from cloudverge_auth.bodies.fields import Fine, PathId
from cloudverge_auth.grants import Grant, Wanted
from cloudverge_auth.moments import moment_of, seconds_of
from cloudverge_auth.routes.requests import caller_of_request, refusals
from cloudverge_auth.services import Services
from cloudverge_auth.tickets import Right
from cloudverge_auth.tokens import IDENTITY_LIFE_S, sign_identity
from cloudverge_protocol.ids import GrantId, InodeId, SpaceId


def signed_ticket(services: Services, right: Right) -> bodies.Ticket:
    """A right as a ticket."""
    claims = right.identity
    return bodies.Ticket(
        ticket=sign_identity(services.keys.signer, services.ids.cluster, claims, services.now_s()),
        expires_s=IDENTITY_LIFE_S,
        space=claims.space,
        role=claims.role,
        grant=claims.grant,
        root=claims.root,
        label=right.label,
        metaserver=services.metaserver,
        metaserver_url=services.metaserver_url,
    )


def _shown(grant: Grant) -> bodies.GrantOut:
    return bodies.GrantOut(
        id=grant.id,
        kind=grant.kind,
        direction=grant.direction,
        space=grant.space,
        space_name=grant.space_name,
        root=grant.root,
        path=grant.path,
        rw=grant.rw,
        to=grant.to,
        by=grant.by,
        label=grant.label,
        until=seconds_of(grant.until),
        created_at=grant.created_at,
        downloads=grant.downloads,
        max_downloads=grant.max_downloads or 0,
    )


def make_right_routes(services: Services) -> APIRouter:
    """For who has signed in."""
    router = APIRouter(responses=refusals(401))

    @router.post("/v1/tickets", responses=refusals(404))
    async def ticket(request: Request, body: bodies.TicketFor) -> bodies.Ticket:
        """An identity ticket for one of your spaces, or for what a grant gives you."""
        caller = caller_of_request(request)
        if body.grant:
            right = await tickets.for_grantee(services.pool, caller, GrantId(body.grant))
        else:
            right = await tickets.for_member(services.pool, caller, body.space)
        return signed_ticket(services, right)

    @router.post("/v1/grants", status_code=201, responses=refusals(403, 404, 429, 507))
    async def give(request: Request, body: bodies.NewGrant) -> bodies.GrantMade:
        """Give a folder of a space to a user, or make a token for a machine."""
        caller, until = caller_of_request(request), moment_of(body.until)
        wanted = Wanted(SpaceId(body.space), InodeId(body.root), body.path, body.rw, until)
        if body.to is not None:
            return bodies.GrantMade(id=await grants.give(services.pool, caller, wanted, body.to))
        number, token = await grants.make_token(services.pool, caller, wanted, body.label or "")
        return bodies.GrantMade(id=number, token=token)

    @router.get("/v1/grants")
    async def list_grants(request: Request) -> list[bodies.GrantOut]:
        """Grants, tokens and links: yours, those in spaces you own, and what you were given."""
        return [
            _shown(grant) for grant in await grants.list_grants(services.pool, caller_of_request(request))
        ]

    @router.delete("/v1/grants/{grant}", responses=refusals(404))
    async def end(request: Request, grant: PathId) -> Fine:
        """Take a grant, token or link back."""
        await grants.end(services.pool, caller_of_request(request), GrantId(grant))
        return Fine()

    @router.post("/v1/links", status_code=201, responses=refusals(403, 404, 507))
    async def make_link(request: Request, body: bodies.NewLink) -> bodies.LinkMade:
        """Make a public link to a file."""
        caller, until = caller_of_request(request), moment_of(body.until)
        wanted = Wanted(SpaceId(body.space), InodeId(body.ino), body.path, False, until)
        password = body.password.get_secret_value() if body.password else ""
        number, secret = await services.links.make(caller, wanted, password, body.max_downloads)
        return bodies.LinkMade(id=number, url=f"{services.metaserver_url}/l/{secret}")

    return router
