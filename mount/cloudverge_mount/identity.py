"""Who we are to the servers: signed in once, then a fresh identity ticket for one space whenever one is asked for.

A ticket lives for a minute. One that is handed out has most of its life before it, because a connection uses it
until its next HELLO. While auth is away the last one serves to its end.
"""

import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio
from msgspec.structs import replace

from cloudverge_mount.authclient import AuthClient, Ticket, Tokens
from cloudverge_mount.credentials import CredentialFile, Credentials
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, ProtocolFault, Unavailable

TICKET_AGE_MAX_S: Final = 10.0
TICKET_LIFE_MIN_S: Final = 3.0
ACCESS_LIFE_MIN_S: Final = 30.0
LOCK_WAIT_S: Final = 30.0
LOCK_POLL_S: Final = 0.05
PASSWORD_BYTES: Final = 32


class Identity:
    """Tickets for one space. ``may_sign_up``: an embedded cluster, where the account is made when needed."""

    def __init__(
        self,
        auth: AuthClient,
        file: CredentialFile,
        *,
        cluster: str,
        user: str,
        device: str,
        space: str = "",
        may_sign_up: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._auth = auth
        self._file = file
        self.cluster = cluster
        self._user = user
        self._device = device
        self._wanted: int | str = int(space) if space.isdecimal() else space
        self._may_sign_up = may_sign_up
        self._clock = clock
        self._lock = trio.Lock()
        self._access = ""
        self._access_until = 0.0
        self._ticket: Ticket | None = None
        self._ticket_from = 0.0

    async def sign_in_with(self, password: str) -> None:
        """Sign in with a password somebody typed; only the refresh token is kept."""
        async with self._file_lock():
            tokens = await self._auth.sign_in(self._user, password, self._device)
            self._keep(Credentials(self.cluster, self._user), tokens)

    async def ticket(self) -> Ticket:
        """A ticket with most of its life before it, or the last one while auth is away."""
        async with self._lock:
            now = self._clock()
            held = self._ticket
            if held is not None and now < self._ticket_from + min(TICKET_AGE_MAX_S, held.expires_s / 2):
                return held
            try:
                fresh = await self._fresh_ticket()
            except Unavailable:
                if held is None or now > self._ticket_from + held.expires_s - TICKET_LIFE_MIN_S:
                    raise
                return held
            self._ticket, self._ticket_from = fresh, now
            self._wanted = fresh.space  # a name may come to mean another space; we stay with this one
            return fresh

    def distrust(self) -> None:
        """A server does not believe our ticket any more: the next one is asked for afresh."""
        self._ticket = None

    async def space_name(self) -> str:
        """What people call the space of our tickets; its number if auth does not say."""
        space = (await self.ticket()).space
        async with self._lock:
            try:
                spaces = await self._auth.spaces(await self._access_token())
            except CloudVergeError:
                spaces = []
        return next((each.name for each in spaces if each.id == space), str(space))

    async def _fresh_ticket(self) -> Ticket:
        try:
            return await self._auth.ticket(await self._access_token(), self._wanted)
        except Denied as error:
            if error.code != Code.UNAUTHORIZED:
                raise
        self._access = ""  # auth knows better than our clock
        return await self._auth.ticket(await self._access_token(), self._wanted)

    async def _access_token(self) -> str:
        if not self._access or self._clock() > self._access_until:
            async with self._file_lock():
                await self._renew_access()
        return self._access

    async def _renew_access(self) -> None:
        known = self._file.load()
        if known is None:
            if not self._may_sign_up:
                raise Denied(Code.UNAUTHORIZED, f"{self._user} is not signed in to cluster {self.cluster}")
            known = Credentials(self.cluster, self._user, secrets.token_urlsafe(PASSWORD_BYTES))
            self._file.save(known)  # before the account is made: its password must not be lost
        self._keep(known, await self._tokens_for(known))

    async def _tokens_for(self, known: Credentials) -> Tokens:
        if known.refresh_token:
            try:
                return await self._auth.refresh(known.refresh_token)
            except Denied:
                if not known.password:
                    raise Denied(
                        Code.UNAUTHORIZED, f"{known.user} has been signed out of cluster {self.cluster}"
                    ) from None
                return await self._auth.sign_in(known.user, known.password, self._device)
        try:
            return await self._auth.sign_up(known.user, known.password, self._device)
        except CloudVergeError as error:
            if error.code != Code.EXISTS:
                raise
        return await self._auth.sign_in(known.user, known.password, self._device)

    def _keep(self, known: Credentials, tokens: Tokens) -> None:
        if tokens.cluster and self.cluster and tokens.cluster != self.cluster:
            raise ProtocolFault(
                Code.WRONG_CLUSTER, f"the auth server now belongs to cluster {tokens.cluster}"
            )
        self._file.save(replace(known, refresh_token=tokens.refresh_token))
        self._access = tokens.access_token
        self._access_until = self._clock() + tokens.access_expires_s - ACCESS_LIFE_MIN_S

    @asynccontextmanager
    async def _file_lock(self) -> AsyncIterator[None]:
        with trio.move_on_after(LOCK_WAIT_S):
            while not (lock := self._file.try_lock()):  # noqa: ASYNC110  another process holds it
                await trio.sleep(LOCK_POLL_S)
        if not lock:
            raise Unavailable(Code.TIMEOUT, f"{self._file.path} has been locked for {LOCK_WAIT_S:g} s")
        with lock:
            yield
