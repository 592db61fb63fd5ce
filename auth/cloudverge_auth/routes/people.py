"""Routes of who has signed in about himself: sign-ins, devices, password."""

from fastapi import APIRouter, Request

from cloudverge_auth import devices, invites, signins
from cloudverge_auth.bodies import people as bodies
from cloudverge_auth.bodies.fields import Fine, PathId
from cloudverge_auth.routes.requests import address_of, caller_of_request, refusals
from cloudverge_auth.services import Services
from cloudverge_protocol.ids import DeviceId
from cloudverge_wire.database import transaction


def make_people_routes(services: Services) -> APIRouter:
    """For who has signed in."""
    router = APIRouter(responses=refusals(401))

    @router.post("/v1/logout")
    async def log_out(request: Request) -> Fine:
        """End this sign-in: its refresh and access tokens are refused from now on."""
        async with transaction(services.pool) as connected:
            await signins.end(connected, caller_of_request(request).family, "logout")
        return Fine()

    @router.get("/v1/whoami")
    async def whoami(request: Request) -> bodies.Who:
        """Who the token says you are."""
        caller = caller_of_request(request)
        return bodies.Who(
            user_id=caller.user,
            user=caller.user_name,
            device_id=caller.device,
            device=caller.device_name,
            cluster=services.ids.cluster,
            admin=caller.admin,
        )

    @router.get("/v1/devices")
    async def list_devices(request: Request) -> list[bodies.DeviceOut]:
        """Your devices."""
        caller = caller_of_request(request)
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

    @router.delete("/v1/devices/{device}", responses=refusals(404))
    async def revoke_device(request: Request, device: PathId) -> Fine:
        """Take a device's access away for ever."""
        await devices.revoke_device(services.pool, caller_of_request(request), DeviceId(device))
        return Fine()

    @router.post("/v1/password", responses=refusals(403, 429))
    async def change_password(request: Request, body: bodies.PasswordChange) -> Fine:
        """Set a new password; ends all your other sign-ins."""
        old, new = body.old.get_secret_value(), body.new.get_secret_value()
        await services.accounts.change_password(caller_of_request(request), old, new, address_of(request))
        return Fine()

    @router.post("/v1/claim", responses=refusals(403, 409))
    async def claim(request: Request, body: bodies.Claim) -> Fine:
        """Become an administrator by a one-time invitation for administrators."""
        await invites.claim(services.pool, caller_of_request(request), body.invite.get_secret_value())
        return Fine()

    return router
