"""Auth's HTTP routes: each translates a body to a call and a result to a body, nothing else.

Who may call is decided before any of this runs (``app``); ``PUBLIC`` names the routes open to strangers.
"""

import hmac
from typing import Final

from fastapi import APIRouter, Request

from cloudverge_auth import bodies, devices, signins, spaces
from cloudverge_auth.accounts import Credentials
from cloudverge_auth.services import Services
from cloudverge_auth.signins import Caller, SignIn
from cloudverge_auth.tokens import ACCESS_LIFE_S, IDENTITY_LIFE_S, Access, sign_access, sign_identity
from cloudverge_protocol.errors import Code, Denied
from cloudverge_protocol.ids import DeviceId
from cloudverge_wire.database import transaction

PUBLIC: Final = (
    "/healthz",
    "/v1/keys",
    "/v1/signup",
    "/v1/login",
    "/v1/refresh",
    "/docs",
    "/openapi.json",
)


def _caller(request: Request) -> Caller:
    caller = request.state.claims
    assert isinstance(caller, Caller)
    return caller


def _credentials(request: Request, body: bodies.LogIn) -> Credentials:
    address = request.client.host if request.client else ""
    return Credentials(body.user, body.password.get_secret_value(), body.device or "unnamed device", address)


def _signed_in(services: Services, sign_in: SignIn) -> bodies.SignedIn:
    claims = Access(str(sign_in.user), sign_in.device, sign_in.family)
    token = sign_access(services.keys.signer, services.ids.cluster, claims, services.now_s())
    return bodies.SignedIn(
        access_token=token,
        access_expires_s=ACCESS_LIFE_S,
        refresh_token=sign_in.refresh_token,
        user_id=sign_in.user,
        device_id=sign_in.device,
        cluster=services.ids.cluster,
    )


def _check_sign_up(services: Services, invite: str) -> None:
    if services.sign_up == "open":
        return
    if services.sign_up == "closed":
        raise Denied(Code.FORBIDDEN, "this cluster takes no sign-ups: ask its operator for an account")
    if not services.invite or not hmac.compare_digest(invite.encode(), services.invite.encode()):
        raise Denied(
            Code.FORBIDDEN, "this cluster takes sign-ups by invitation: the invite is missing or wrong"
        )


def make_public_routes(services: Services) -> APIRouter:
    """Those of PUBLIC."""
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> bodies.Fine:
        """Whether this process runs."""
        return bodies.Fine()

    @router.get("/v1/keys")
    async def keys() -> bodies.Keys:
        """The keys that verify access tokens and identity tickets."""
        return bodies.Keys(cluster=services.ids.cluster, keys=services.keys.ring.to_public())

    @router.post("/v1/signup", status_code=201)
    async def sign_up(request: Request, body: bodies.SignUp) -> bodies.SignedIn:
        """Make an account and its first space, and sign in."""
        _check_sign_up(services, body.invite.get_secret_value())
        return _signed_in(services, await services.accounts.sign_up(_credentials(request, body)))

    @router.post("/v1/login")
    async def log_in(request: Request, body: bodies.LogIn) -> bodies.SignedIn:
        """Sign in."""
        return _signed_in(services, await services.accounts.log_in(_credentials(request, body)))

    @router.post("/v1/refresh")
    async def refresh(body: bodies.Refresh) -> bodies.SignedIn:
        """Trade a refresh token for the next one and an access token."""
        return _signed_in(services, await signins.refresh(services.pool, body.refresh_token))

    return router


def make_member_routes(services: Services) -> APIRouter:
    """Those for who has signed in."""
    router = APIRouter()

    @router.post("/v1/logout")
    async def log_out(request: Request) -> bodies.Fine:
        """End this sign-in: its refresh and access tokens are refused from now on."""
        async with transaction(services.pool) as connected:
            await signins.end(connected, _caller(request).family, "logout")
        return bodies.Fine()

    @router.get("/v1/whoami")
    async def whoami(request: Request) -> bodies.Who:
        """Who the token says you are."""
        caller = _caller(request)
        return bodies.Who(
            user_id=caller.user,
            user=caller.user_name,
            device_id=caller.device,
            device=caller.device_name,
            cluster=services.ids.cluster,
        )

    @router.get("/v1/devices")
    async def list_devices(request: Request) -> list[bodies.DeviceOut]:
        """Your devices."""
        caller = _caller(request)
        found = await devices.list_devices(services.pool, caller.user)
        return [
            bodies.DeviceOut(
                id=each.id,
                name=each.name,
                created_at=each.created_at,
                seen_at=each.seen_at,
                current=each.id == caller.device,
            )
            for each in found
        ]

    @router.delete("/v1/devices/{device}")
    async def revoke_device(request: Request, device: bodies.PathId) -> bodies.Fine:
        """Take a device's access away for ever."""
        await devices.revoke_device(services.pool, _caller(request).user, DeviceId(device))
        return bodies.Fine()

    @router.get("/v1/spaces")
    async def list_spaces(request: Request) -> list[bodies.SpaceOut]:
        """The spaces you belong to."""
        found = await spaces.list_spaces(services.pool, _caller(request).user)
        return [
            bodies.SpaceOut(
                id=each.id,
                name=each.name,
                role=each.role,
                quota_bytes=each.quota_bytes,
                quota_inodes=each.quota_inodes,
            )
            for each in found
        ]

    @router.post("/v1/tickets")
    async def ticket(request: Request, body: bodies.TicketFor) -> bodies.Ticket:
        """An identity ticket for one of your spaces."""
        caller = _caller(request)
        space = spaces.choose_space(await spaces.list_spaces(services.pool, caller.user), body.space)
        claims = spaces.identity_of(caller, space)
        signed = sign_identity(services.keys.signer, services.ids.cluster, claims, services.now_s())
        return bodies.Ticket(ticket=signed, expires_s=IDENTITY_LIFE_S, space=space.id, role=space.role)

    return router
