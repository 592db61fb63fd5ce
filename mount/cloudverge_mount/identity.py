"""Who we are to the servers: a fresh identity ticket for one space, or one grant, whenever one is asked for.

A ticket lives for a minute. One that is handed out has most of its life before it, because a connection uses it
until its next HELLO. While auth is away the last one serves to its end; a refusal is final (Denied), and ends it at
once.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import trio

from cloudverge_mount.account.signin import SignIn
from cloudverge_mount.authclient import AuthClient, SpaceInfo, Ticket
from cloudverge_mount.credentials import CredentialFile, Credentials
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, Refused, Unavailable

TICKET_AGE_MAX_S: Final = 10.0
TICKET_LIFE_MIN_S: Final = 3.0
NOT_FINAL: Final = (Code.BUSY,)  # asked too often: no word about the right


class TicketKeeper(ABC):
    """Tickets for one space of one cluster. ``ticket`` raises Denied when auth gives none any more, for good."""

    def __init__(self, cluster: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.cluster = cluster
        self._clock = clock
        self._lock = trio.Lock()
        self._held: Ticket | None = None
        self._held_from = 0.0
        self._wants_fresh = False

    @property
    @abstractmethod
    def user(self) -> str:
        """Whose tickets they are, for people and for the names of folders."""

    @abstractmethod
    async def _fetch(self) -> Ticket:
        """A new ticket from auth."""

    def renew(self) -> None:
        """The ticket in hand was refused: the next one that is handed out is asked for anew."""
        self._wants_fresh = True

    async def ticket(self) -> Ticket:
        """A ticket with most of its life before it, or the last one while auth is away."""
        async with self._lock:
            now = self._clock()
            held = self._held
            young = held is not None and now < self._held_from + min(TICKET_AGE_MAX_S, held.expires_s / 2)
            if held is not None and young and not self._wants_fresh:
                return held
            try:
                fresh = await self._fetch_or_deny()
            except Unavailable:
                if held is None or now > self._held_from + held.expires_s - TICKET_LIFE_MIN_S:
                    raise
                return held
            self._held, self._held_from, self._wants_fresh = fresh, now, False
            return fresh

    async def space_name(self) -> str:
        """What people call what our tickets are for; its number if auth does not say."""
        ticket = await self.ticket()
        return ticket.label or str(ticket.space)

    async def _fetch_or_deny(self) -> Ticket:
        try:
            return await self._fetch()
        except Refused as error:
            if error.code in NOT_FINAL:
                raise Unavailable(Code.UNAVAILABLE, error.message) from None
            self._held = None
            raise Denied(Code.FORBIDDEN, error.message) from None
        except Denied:
            self._held = None
            raise


class Identity(TicketKeeper):
    """Tickets of somebody who signed in, for a space or for a ``grant``.

    ``may_sign_up``: an embedded cluster, where the account is made when needed.
    """

    def __init__(
        self,
        auth: AuthClient,
        file: CredentialFile,
        *,
        cluster: str,
        user: str,
        device: str,
        space: str = "",
        grant: int | None = None,
        new: Credentials | None = None,
        may_sign_up: bool = False,
        invitation: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(cluster, clock)
        self._auth = auth
        self._sign_in = SignIn(
            auth,
            file,
            new or Credentials(cluster, user),
            device=device,
            may_sign_up=may_sign_up,
            invitation=invitation,
            clock=clock,
        )
        self._wanted: int | str = int(space) if space.isdecimal() else space
        self._grant = grant

    @property
    def user(self) -> str:
        """Who signed in."""
        return self._sign_in.user

    async def sign_in_with(self, password: str) -> None:
        """Sign in with a password somebody typed; only the refresh token is kept."""
        await self._sign_in.with_password(password)

    async def space_name(self) -> str:
        """As ``TicketKeeper`` has it; of an auth server that tells no labels, from the list of spaces."""
        ticket = await self.ticket()
        if ticket.label:
            return ticket.label
        async with self._lock:
            try:
                spaces: list[SpaceInfo] = await self._sign_in.asked(self._auth.spaces)
            except CloudVergeError:
                spaces = []
        return next((each.name for each in spaces if each.id == ticket.space), str(ticket.space))

    async def _fetch(self) -> Ticket:
        fresh = await self._sign_in.asked(lambda access: self._auth.ticket(access, self._wanted, self._grant))
        self._wanted = fresh.space  # a name may come to mean another space; we stay with this one
        return fresh


class MachineIdentity(TicketKeeper):
    """Tickets for whoever holds a token of ``cv grant --token``: a camera, a build server. Nobody signs in."""

    def __init__(
        self, auth: AuthClient, token: str, *, cluster: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(cluster, clock)
        self._auth = auth
        self._token = token

    @property
    def user(self) -> str:
        """Machines have no name of their own."""
        return "machine"

    async def _fetch(self) -> Ticket:
        return await self._auth.machine_ticket(self._token)
