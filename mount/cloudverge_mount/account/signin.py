"""A sign-in: the access token of one user of one cluster, kept fresh with the refresh token on disk.

Refresh tokens rotate and using one twice ends them all, so whoever refreshes holds the file's lock while it reads,
asks and writes: mounts and commands of one user share a file. What it asks for it writes first, so that an answer that
was lost can be asked for again. Files are read in a thread, because a keyring may wait.
"""

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import trio
from msgspec.structs import replace

from cloudverge_mount.authclient import AuthClient, Tokens
from cloudverge_mount.credentials import CredentialFile, Credentials
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, ProtocolFault, Unavailable

ACCESS_LIFE_MIN_S: Final = 30.0
LOCK_WAIT_S: Final = 30.0
LOCK_POLL_S: Final = 0.05
PASSWORD_BYTES: Final = 32
TOKEN_BYTES: Final = 32

T = TypeVar("T")


class SignIn:
    """``new`` is what is kept of somebody who has not signed in yet: who, and where.

    ``may_sign_up``: an embedded cluster, where the account is made when needed; by ``invitation`` if not otherwise.
    """

    def __init__(
        self,
        auth: AuthClient,
        file: CredentialFile,
        new: Credentials,
        *,
        device: str,
        may_sign_up: bool = False,
        invitation: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._auth = auth
        self._file = file
        self._new = new
        self._device = device
        self._may_sign_up = may_sign_up
        self._invitation = invitation
        self._clock = clock
        self._access = ""
        self._access_until = 0.0

    @property
    def cluster(self) -> str:
        """The cluster's id."""
        return self._new.cluster

    @property
    def user(self) -> str:
        """Who it is."""
        return self._new.user

    async def with_password(self, password: str) -> None:
        """Sign in with a password somebody typed; only the refresh token is kept."""
        async with self._file_lock():
            await self._keep(self._new, await self._auth.sign_in(self.user, password, self._device))

    async def by_sign_up(self, password: str, invite: str = "") -> None:
        """Make the account, with a password somebody typed; only the refresh token is kept."""
        async with self._file_lock():
            await self._keep(self._new, await self._auth.sign_up(self.user, password, self._device, invite))

    async def asked(self, action: Callable[[str], Awaitable[T]]) -> T:
        """What ``action`` gives with an access token, which is renewed if auth knows better than our clock."""
        try:
            return await action(await self.access_token())
        except Denied as error:
            if error.code != Code.UNAUTHORIZED:
                raise
        self._access = ""
        return await action(await self.access_token())

    async def access_token(self) -> str:
        """A token with life before it. Raises Denied(UNAUTHORIZED) when the sign-in has ended."""
        if not self._access or self._clock() > self._access_until:
            async with self._file_lock():
                await self._renew()
        return self._access

    async def kept(self) -> Credentials | None:
        """What is on disk now."""
        return await trio.to_thread.run_sync(self._file.load)

    async def forget_password(self) -> None:
        """A password that was made at random is no longer the account's."""
        async with self._file_lock():
            kept = await self.kept()
            if kept is not None:
                await trio.to_thread.run_sync(self._file.save, replace(kept, password=""))

    async def _renew(self) -> None:
        known = await self.kept()
        if known is None:
            if not self._may_sign_up:
                where = self._new.server or f"cluster {self.cluster}"
                raise Denied(
                    Code.UNAUTHORIZED, f"{self.user} is not signed in to {where}: cv login, or cv signup"
                )
            known = replace(self._new, password=secrets.token_urlsafe(PASSWORD_BYTES))
            self._file.save(known)  # before the account is made: its password must not be lost
        await self._keep(known, await self._tokens_for(known))

    async def _tokens_for(self, known: Credentials) -> Tokens:
        if known.refresh_token:
            known = await self._about_to_trade(known)
            try:
                return await self._auth.refresh(known.refresh_token, known.next_token)
            except Denied as error:
                if error.code == Code.FORBIDDEN:  # a password at hand must not undo that
                    raise Denied(
                        Code.FORBIDDEN, f"{error.message}: cv login signs {known.user} in again"
                    ) from None
                if not known.password:
                    raise self._signed_out(known) from None
                return await self._auth.sign_in(known.user, known.password, self._device)
        if not known.password:
            raise self._signed_out(known)
        try:
            return await self._auth.sign_up(known.user, known.password, self._device)
        except CloudVergeError as error:
            if error.code == Code.FORBIDDEN and self._invitation:
                return await self._auth.sign_up(known.user, known.password, self._device, self._invitation)
            if error.code != Code.EXISTS:
                raise
        return await self._auth.sign_in(known.user, known.password, self._device)

    async def _about_to_trade(self, known: Credentials) -> Credentials:
        """With what the refresh token is to be traded for, on disk: if no answer comes, we ask for the same again."""
        if not known.next_token:
            known = replace(known, next_token=secrets.token_urlsafe(TOKEN_BYTES))
            await trio.to_thread.run_sync(self._file.save, known)
        return known

    @staticmethod
    def _signed_out(known: Credentials) -> Denied:
        where = known.server or f"cluster {known.cluster}"
        return Denied(Code.UNAUTHORIZED, f"{known.user} has been signed out of {where}: cv login")

    async def _keep(self, known: Credentials, tokens: Tokens) -> None:
        if tokens.cluster and self.cluster and tokens.cluster != self.cluster:
            raise ProtocolFault(
                Code.WRONG_CLUSTER, f"the auth server now belongs to cluster {tokens.cluster}"
            )
        known = replace(
            known,
            refresh_token=tokens.refresh_token,
            next_token="",
            server=self._new.server or known.server,
            folder=self._new.folder or known.folder,
            ca=self._new.ca or known.ca,
        )
        self._new = replace(known, refresh_token="", next_token="", password="")
        with trio.CancelScope(shield=True):  # the old token is spent: the new one must not be lost
            await trio.to_thread.run_sync(self._file.save, known)
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
