"""Routes for administrators: users, quotas, invitations, who may sign up, the log of accounts.

That the caller is one is decided before any of this runs (``app``).
"""

from fastapi import APIRouter, Request

from cloudverge_auth import admin, audit, invites, policy
from cloudverge_auth.admin import Change, User
from cloudverge_auth.bodies import admin as bodies
from cloudverge_auth.bodies.fields import Before, Fine, Limit, PathId, PathUser
from cloudverge_auth.bodies.spaces import LogOut
from cloudverge_auth.invites import Invite
from cloudverge_auth.moments import moment_of, seconds_of
from cloudverge_auth.routes.requests import caller_of_request, refusals
from cloudverge_auth.routes.spaces import ENTRIES, shown_log
from cloudverge_auth.services import Services
from cloudverge_protocol.ids import SpaceId
from cloudverge_wire.database import transaction


def _user(user: User) -> bodies.UserOut:
    return bodies.UserOut(
        user=user.user,
        user_id=user.user_id,
        admin=user.admin,
        disabled=user.disabled,
        quota_bytes=user.quota_bytes,
        quota_inodes=user.quota_inodes,
        created_at=user.created_at,
        spaces=user.spaces,
    )


def _invite(invite: Invite) -> bodies.InviteOut:
    return bodies.InviteOut(
        id=invite.id,
        admin=invite.admin,
        by=invite.by,
        created_at=invite.created_at,
        until=seconds_of(invite.until),
        state=invite.state,
        used_by=invite.used_by,
    )


def make_admin_routes(services: Services) -> APIRouter:
    """For administrators."""
    router = APIRouter(prefix="/v1/admin", responses=refusals(401, 403))
    _add_users(router, services)
    _add_invites(router, services)
    _add_keys(router, services)
    return router


def _add_keys(router: APIRouter, services: Services) -> None:
    @router.post("/keys", responses=refusals(429))
    async def rotate_keys(request: Request) -> bodies.KeyMade:
        """Have a new signing key take over in three minutes; nobody is signed out."""
        kid = await services.keys.rotate()
        async with transaction(services.pool) as connected:
            await audit.record(connected, caller_of_request(request), audit.ACCOUNTS, "keys.rotate", kid)
        return bodies.KeyMade(kid=kid)


def _add_users(router: APIRouter, services: Services) -> None:
    @router.get("/users")
    async def list_users() -> list[bodies.UserOut]:
        """Everybody who has an account."""
        return [_user(each) for each in await admin.list_users(services.pool)]

    @router.patch("/users/{user}", responses=refusals(404, 409))
    async def change_user(request: Request, user: PathUser, body: bodies.UserChange) -> bodies.UserOut:
        """Disable or enable somebody, make him an administrator or not, set his quota."""
        change = Change(body.disabled, body.admin, body.quota_bytes, body.quota_inodes)
        return _user(await admin.change_user(services.pool, caller_of_request(request), user, change))

    @router.patch("/spaces/{space}", responses=refusals(404))
    async def change_space(request: Request, space: PathId, body: bodies.SpaceChange) -> Fine:
        """Set a space's quota."""
        quotas = (body.quota_bytes, body.quota_inodes)
        await admin.change_space(services.pool, caller_of_request(request), SpaceId(space), *quotas)
        return Fine()

    @router.get("/log")
    async def log(before: Before = 0, limit: Limit = ENTRIES) -> LogOut:
        """What was done to accounts."""
        return shown_log(await audit.read(services.pool, audit.ACCOUNTS, before, limit))


def _add_invites(router: APIRouter, services: Services) -> None:
    @router.post("/invites", status_code=201)
    async def invite(request: Request, body: bodies.NewInvite | None = None) -> bodies.InviteMade:
        """Make a one-time invitation."""
        wanted = body or bodies.NewInvite()
        until = moment_of(wanted.until)
        number, secret = await invites.make(services.pool, caller_of_request(request), wanted.admin, until)
        return bodies.InviteMade(id=number, invite=secret)

    @router.get("/invites")
    async def list_invites() -> list[bodies.InviteOut]:
        """The newest invitations."""
        return [_invite(each) for each in await invites.list_invites(services.pool)]

    @router.delete("/invites/{invite}", responses=refusals(404))
    async def revoke_invite(request: Request, invite: PathId) -> Fine:
        """Withdraw an invitation."""
        await invites.revoke(services.pool, caller_of_request(request), invite)
        return Fine()

    @router.get("/policy")
    async def show_policy() -> bodies.Policy:
        """Who may sign up."""
        return bodies.Policy(sign_up=await policy.sign_up_policy(services.pool, services.accounts.defaults))

    @router.put("/policy")
    async def decide_policy(request: Request, body: bodies.Policy) -> bodies.Policy:
        """Decide who may sign up, from now on and on all servers."""
        await policy.decide(services.pool, caller_of_request(request), body.sign_up)
        return body
