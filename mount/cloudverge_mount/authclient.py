"""The auth server's HTTP interface, as a mount uses it: sign up, sign in, refresh, tickets.

Thin: one method per route, errors as everywhere. What only people ask for stands in ``account.people``. Nothing
that holds a secret shows it when it is printed.
"""

import ssl

import httpx
import msgspec

from cloudverge_mount.account.jsonhttp import JsonHttp


class Keys(msgspec.Struct, frozen=True):
    """Who signs in this cluster; of interest here is which cluster it is."""

    cluster: str


class Authority(msgspec.Struct, frozen=True):
    """The certificate authority of the cluster, as PEM; empty: it has none of its own."""

    ca: str = ""


class Tokens(msgspec.Struct, frozen=True):
    """A signed-in device."""

    access_token: str
    access_expires_s: float
    refresh_token: str
    cluster: str

    def __repr__(self) -> str:
        return f"<tokens of cluster {self.cluster}>"


class Ticket(msgspec.Struct, frozen=True):
    """An identity ticket for one space, or for what one grant gives of it."""

    ticket: str
    expires_s: float
    space: int
    role: str
    grant: int | None = None
    root: int | None = None  # the folder that is given
    label: str = ""  # how people call it
    metaserver: str = ""  # HOST:PORT of its frames; empty: auth has not been told
    metaserver_url: str = ""

    def __repr__(self) -> str:
        return f"<ticket for space {self.space} as {self.role}>"


class SpaceInfo(msgspec.Struct, frozen=True):
    """A space the user may use."""

    id: int
    name: str
    role: str


class AuthClient(JsonHttp):
    """One auth server; what a mount asks of it."""

    def __init__(
        self, url: str, tls: ssl.SSLContext | None = None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        super().__init__("auth server", url, tls, transport)

    async def keys(self) -> Keys:
        """Which cluster this is."""
        return await self.ask("GET", "/v1/keys", Keys)

    async def authority(self) -> Authority:
        """The cluster's certificate authority."""
        return await self.ask("GET", "/v1/ca", Authority)

    async def sign_up(self, user: str, password: str, device: str, invite: str = "") -> Tokens:
        """Make an account with its first space, signed in."""
        body: dict[str, object] = {"user": user, "password": password, "device": device}
        return await self.ask(
            "POST", "/v1/signup", Tokens, body=body | ({"invite": invite} if invite else {})
        )

    async def sign_in(self, user: str, password: str, device: str) -> Tokens:
        """Sign in."""
        body: dict[str, object] = {"user": user, "password": password, "device": device}
        return await self.ask("POST", "/v1/login", Tokens, body=body)

    async def refresh(self, refresh_token: str, next_token: str) -> Tokens:
        """Fresh tokens for a signed-in device; ``refresh_token`` is spent, and good only to ask for the same again."""
        body: dict[str, object] = {"refresh_token": refresh_token, "next_token": next_token}
        return await self.ask("POST", "/v1/refresh", Tokens, body=body)

    async def ticket(self, access_token: str, space: int | str, grant: int | None = None) -> Ticket:
        """An identity ticket for a space (id, name, or "" for the user's first), or for what a grant gives."""
        body: dict[str, object] = {"space": space} if grant is None else {"space": "", "grant": grant}
        return await self.ask("POST", "/v1/tickets", Ticket, body=body, token=access_token)

    async def machine_ticket(self, machine_token: str) -> Ticket:
        """An identity ticket for whoever holds a machine's token."""
        return await self.ask("POST", "/v1/machine", Ticket, body={"token": machine_token})

    async def spaces(self, access_token: str) -> list[SpaceInfo]:
        """The spaces the user may use."""
        return await self.ask("GET", "/v1/spaces", list[SpaceInfo], token=access_token)
