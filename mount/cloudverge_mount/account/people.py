"""Auth's and the metaserver's HTTP for people: one method for each thing they can ask, signed in.

Thin: routes, bodies and answers, nothing decided. Spaces are named by name or number; the servers want numbers.
"""

from types import TracebackType
from typing import TypeVar
from urllib.parse import quote

from cloudverge_mount.account import answers as a
from cloudverge_mount.account.jsonhttp import JsonHttp
from cloudverge_mount.account.signin import SignIn
from cloudverge_mount.authclient import AuthClient, Ticket
from cloudverge_mount.endpoints import Endpoints
from cloudverge_protocol.errors import Code, Refused, Unavailable

T = TypeVar("T")
Body = dict[str, object]


class People:
    """An async context manager around what it opens to the metaserver; auth is its maker's to close."""

    def __init__(self, auth: AuthClient, sign_in: SignIn, endpoints: Endpoints) -> None:
        self._auth = auth
        self.sign_in = sign_in
        self._endpoints = endpoints
        self._metaservers: dict[str, JsonHttp] = {}

    async def __aenter__(self) -> "People":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for server in self._metaservers.values():
            await server.aclose()

    @property
    def where(self) -> str:
        """The server, for people."""
        return self._endpoints.auth_url

    async def _ask(
        self, method: str, path: str, reply: type[T], body: Body | None = None, **params: object
    ) -> T:
        given = {name: str(value) for name, value in params.items() if value is not None}
        return await self.sign_in.asked(
            lambda access: self._auth.ask(method, path, reply, body=body, params=given or None, token=access)
        )

    # --- oneself -----------------------------------------------------------------------------------------

    async def whoami(self) -> a.Who:
        return await self._ask("GET", "/v1/whoami", a.Who)

    async def log_out(self) -> None:
        await self._ask("POST", "/v1/logout", a.Fine)

    async def change_password(self, old: str, new: str) -> None:
        await self._ask("POST", "/v1/password", a.Fine, {"old": old, "new": new})

    async def claim(self, invite: str) -> None:
        await self._ask("POST", "/v1/claim", a.Fine, {"invite": invite})

    async def devices(self) -> list[a.Device]:
        return await self._ask("GET", "/v1/devices", list[a.Device])

    async def revoke_device(self, device: int) -> None:
        await self._ask("DELETE", f"/v1/devices/{device}", a.Fine)

    # --- spaces and members ------------------------------------------------------------------------------

    async def spaces(self) -> list[a.Space]:
        return await self._ask("GET", "/v1/spaces", list[a.Space])

    async def space(self, named: str) -> a.Space:
        """The caller's space of that name or number; raises Refused(NOT_FOUND), or when a name is ambiguous."""
        known = await self.spaces()
        found = [each for each in known if each.name == named]
        found = found or [each for each in known if named == str(each.id)]
        if not found:
            names = ", ".join(each.name for each in known) or "none"
            raise Refused(Code.NOT_FOUND, f"you have no space {named} (yours: {names})")
        if len(found) > 1:
            ids = ", ".join(str(each.id) for each in found)
            raise Refused(Code.INVALID, f"several spaces are called {named}: name one by its number, {ids}")
        return found[0]

    async def create_space(self, name: str) -> a.Space:
        return await self._ask("POST", "/v1/spaces", a.Space, {"name": name})

    async def delete_space(self, space: int) -> None:
        await self._ask("DELETE", f"/v1/spaces/{space}", a.Fine)

    async def members(self, space: int) -> list[a.Member]:
        return await self._ask("GET", f"/v1/spaces/{space}/members", list[a.Member])

    async def add_member(self, space: int, user: str, role: str) -> None:
        await self._ask("POST", f"/v1/spaces/{space}/members", object, {"user": user, "role": role})

    async def change_role(self, space: int, user: str, role: str) -> None:
        await self._ask("PATCH", f"/v1/spaces/{space}/members/{quote(user, safe='')}", object, {"role": role})

    async def remove_member(self, space: int, user: str) -> None:
        await self._ask("DELETE", f"/v1/spaces/{space}/members/{quote(user, safe='')}", object)

    # --- grants and links --------------------------------------------------------------------------------

    async def grants(self) -> list[a.Grant]:
        return await self._ask("GET", "/v1/grants", list[a.Grant])

    async def grant(self, body: Body) -> a.NewGrant:
        return await self._ask("POST", "/v1/grants", a.NewGrant, body)

    async def link(self, body: Body) -> a.NewLink:
        return await self._ask("POST", "/v1/links", a.NewLink, body)

    async def revoke(self, grant: int) -> None:
        await self._ask("DELETE", f"/v1/grants/{grant}", a.Fine)

    async def rights_log(self, space: int, limit: int) -> a.Log:
        return await self._ask("GET", f"/v1/spaces/{space}/log", a.Log, limit=limit)

    # --- administrators ----------------------------------------------------------------------------------

    async def users(self) -> list[a.UserAccount]:
        return await self._ask("GET", "/v1/admin/users", list[a.UserAccount])

    async def change_user(self, user: str, changes: Body) -> None:
        await self._ask("PATCH", f"/v1/admin/users/{quote(user, safe='')}", object, changes)

    async def change_space(self, space: int, changes: Body) -> None:
        await self._ask("PATCH", f"/v1/admin/spaces/{space}", object, changes)

    async def invite(self, body: Body) -> a.NewInvite:
        return await self._ask("POST", "/v1/admin/invites", a.NewInvite, body)

    async def invites(self) -> list[a.Invite]:
        return await self._ask("GET", "/v1/admin/invites", list[a.Invite])

    async def revoke_invite(self, invite: int) -> None:
        await self._ask("DELETE", f"/v1/admin/invites/{invite}", a.Fine)

    async def rotate_keys(self) -> a.NewKey:
        return await self._ask("POST", "/v1/admin/keys", a.NewKey)

    async def policy(self) -> a.Policy:
        return await self._ask("GET", "/v1/admin/policy", a.Policy)

    async def set_policy(self, sign_up: str) -> None:
        await self._ask("PUT", "/v1/admin/policy", object, {"sign_up": sign_up})

    async def accounts_log(self, limit: int) -> a.Log:
        return await self._ask("GET", "/v1/admin/log", a.Log, limit=limit)

    # --- the metaserver, with a ticket -------------------------------------------------------------------

    async def ticket(self, space: int | str, grant: int | None = None) -> Ticket:
        return await self.sign_in.asked(lambda access: self._auth.ticket(access, space, grant))

    async def thing(self, ticket: Ticket, path: str) -> a.Thing:
        """What lies at ``path`` below the root that the ticket is for, as committed."""
        return await self._ask_meta(ticket, "/v1/path", a.Thing, {"path": path})

    async def files_log(
        self, ticket: Ticket, ino: int, *, below: bool, before: int | None = None, limit: int | None = None
    ) -> a.Log:
        """What was done to an inode, or below it too."""
        asked = {"ino": ino, "below": "true" if below else "false", "before": before, "limit": limit}
        given = {name: str(value) for name, value in asked.items() if value is not None}
        return await self._ask_meta(ticket, "/v1/log", a.Log, given)

    async def _ask_meta(self, ticket: Ticket, path: str, reply: type[T], params: dict[str, str]) -> T:
        # an embedded cluster's own word is the newest: its ports change
        url = self._endpoints.metaserver_url or ticket.metaserver_url
        if not url:
            raise Unavailable(Code.UNAVAILABLE, f"{self.where} does not tell where the metaserver is")
        server = self._metaservers.get(url)
        if server is None:
            server = self._metaservers[url] = JsonHttp("metaserver", url, self._endpoints.tls())
        return await server.ask("GET", path, reply, params=params, token=ticket.ticket)
