"""Routes that strangers may call: coming in, and what everybody may know."""

from fastapi import APIRouter, Request

from cloudverge_auth import signins, tickets
from cloudverge_auth.accounts import Credentials
from cloudverge_auth.bodies import people as bodies
from cloudverge_auth.bodies.fields import Fine
from cloudverge_auth.bodies.rights import Machine, Ticket
from cloudverge_auth.routes.requests import address_of, refusals
from cloudverge_auth.routes.rights import signed_ticket
from cloudverge_auth.services import Services
from cloudverge_auth.signins import SignIn
from cloudverge_auth.tokens import ACCESS_LIFE_S, Access, sign_access


def _credentials(request: Request, body: bodies.LogIn) -> Credentials:
    invite = body.invite.get_secret_value() if isinstance(body, bodies.SignUp) else ""
    return Credentials(
        body.user,
        body.password.get_secret_value(),
        body.device or "unnamed device",
        address_of(request),
        invite,
    )


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


def make_entry_routes(services: Services) -> APIRouter:
    """For anybody."""
    router = APIRouter(responses=refusals())

    @router.get("/healthz")
    async def healthz() -> Fine:
        """Whether this process runs."""
        return Fine()

    @router.get("/v1/keys")
    async def keys() -> bodies.Keys:
        """The keys that verify access tokens and identity tickets."""
        return bodies.Keys(cluster=services.ids.cluster, keys=services.keys.ring.to_public())

    @router.get("/v1/ca")
    async def ca() -> bodies.Ca:
        """The certificate of the cluster's CA, to be compared with a fingerprint got elsewhere."""
        return bodies.Ca(ca=services.ca_pem)

    @router.post("/v1/signup", status_code=201, responses=refusals(403, 409, 429))
    async def sign_up(request: Request, body: bodies.SignUp) -> bodies.SignedIn:
        """Make an account and its first space, and sign in."""
        return _signed_in(services, await services.accounts.sign_up(_credentials(request, body)))

    @router.post("/v1/login", responses=refusals(401, 429))
    async def log_in(request: Request, body: bodies.LogIn) -> bodies.SignedIn:
        """Sign in."""
        return _signed_in(services, await services.accounts.log_in(_credentials(request, body)))

    @router.post("/v1/refresh", responses=refusals(401, 403))
    async def refresh(body: bodies.Refresh) -> bodies.SignedIn:
        """Trade a refresh token for the next one and an access token."""
        return _signed_in(services, await signins.refresh(services.pool, body.refresh_token, body.next_token))

    @router.post("/v1/machine", responses=refusals(401))
    async def machine(body: Machine) -> Ticket:
        """An identity ticket for what a machine's token gives."""
        return signed_ticket(services, await tickets.for_machine(services.pool, body.token))

    return router
