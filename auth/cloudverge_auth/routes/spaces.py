"""Routes of spaces, their members and their logs."""

from fastapi import APIRouter, Request

from cloudverge_auth import audit, members, spaces
from cloudverge_auth.audit import Log
from cloudverge_auth.bodies import spaces as bodies
from cloudverge_auth.bodies.fields import Before, Fine, Limit, PathId, PathUser
from cloudverge_auth.members import Member
from cloudverge_auth.routes.requests import caller_of_request, refusals
from cloudverge_auth.services import Services
from cloudverge_auth.spaces import Space
from cloudverge_protocol.ids import SpaceId
from cloudverge_wire.database import connection

ENTRIES = 100


def _shown(space: Space) -> bodies.SpaceOut:
    return bodies.SpaceOut(
        id=space.id,
        name=space.name,
        role=space.role,
        kind=space.kind,
        owner=space.owner,
        quota_bytes=space.quota_bytes,
        quota_inodes=space.quota_inodes,
    )


def _member(member: Member) -> bodies.MemberOut:
    return bodies.MemberOut(user=member.user, role=member.role, since=member.since)


def shown_log(log: Log) -> bodies.LogOut:
    """A page of a log."""
    entries = [
        bodies.EntryOut(
            seq=each.seq,
            at=each.at,
            user=each.user,
            device=each.device,
            action=each.action,
            detail=each.detail,
            hash=each.hash,
        )
        for each in log.entries
    ]
    return bodies.LogOut(entries=entries, intact=log.intact)


def make_space_routes(services: Services) -> APIRouter:
    """For who has signed in."""
    router = APIRouter(responses=refusals(401))

    @router.get("/v1/spaces")
    async def list_spaces(request: Request) -> list[bodies.SpaceOut]:
        """The spaces you belong to."""
        return [
            _shown(each) for each in await spaces.list_spaces(services.pool, caller_of_request(request).user)
        ]

    @router.post("/v1/spaces", status_code=201, responses=refusals(409, 507))
    async def create(request: Request, body: bodies.NewSpace) -> bodies.SpaceOut:
        """Make a team space that you own."""
        quota = services.accounts.space_quota
        return _shown(await spaces.create_team(services.pool, caller_of_request(request), body.name, quota))

    @router.delete("/v1/spaces/{space}", responses=refusals(403, 404, 409))
    async def delete(request: Request, space: PathId) -> Fine:
        """Delete a team space with all that is in it."""
        await spaces.delete_team(services.pool, caller_of_request(request), SpaceId(space))
        return Fine()

    @router.get("/v1/spaces/{space}/members", responses=refusals(404))
    async def list_members(request: Request, space: PathId) -> list[bodies.MemberOut]:
        """Who belongs to a space of yours."""
        found = await members.list_members(services.pool, caller_of_request(request), SpaceId(space))
        return [_member(each) for each in found]

    @router.post("/v1/spaces/{space}/members", status_code=201, responses=refusals(403, 404, 409, 429, 507))
    async def add(request: Request, space: PathId, body: bodies.NewMember) -> bodies.MemberOut:
        """Make somebody a member."""
        caller = caller_of_request(request)
        return _member(await members.add(services.pool, caller, SpaceId(space), body.user, body.role))

    @router.patch("/v1/spaces/{space}/members/{user}", responses=refusals(403, 404, 409))
    async def change(
        request: Request, space: PathId, user: PathUser, body: bodies.NewRole
    ) -> bodies.MemberOut:
        """Give a member another role."""
        caller = caller_of_request(request)
        return _member(await members.change(services.pool, caller, SpaceId(space), user, body.role))

    @router.delete("/v1/spaces/{space}/members/{user}", responses=refusals(403, 404, 409))
    async def remove(request: Request, space: PathId, user: PathUser) -> Fine:
        """End a membership: somebody's, as an owner, or yours."""
        await members.remove(services.pool, caller_of_request(request), SpaceId(space), user)
        return Fine()

    @router.get("/v1/spaces/{space}/log", responses=refusals(403, 404))
    async def log(
        request: Request, space: PathId, before: Before = 0, limit: Limit = ENTRIES
    ) -> bodies.LogOut:
        """What was done to rights in a space, for its owners and editors."""
        async with connection(services.pool) as connected:
            await spaces.look(connected, caller_of_request(request), SpaceId(space), "owner", "editor")
        return shown_log(await audit.read(services.pool, SpaceId(space), before, limit))

    return router
