"""The auth server's HTTP interface, as the mount uses it: sign up, sign in, refresh, tickets.

Thin: one method per route, errors as everywhere. Never logs a body, which holds secrets.
"""

import ssl
from types import TracebackType
from typing import Final, TypeVar

import httpx
import msgspec

from cloudverge_mount.transport import http_fault
from cloudverge_protocol.errors import CloudVergeError, Code, Unavailable, make_error

TIMEOUT_S: Final = 10.0
_CODE_OF_STATUS: Final = {401: Code.UNAUTHORIZED, 403: Code.FORBIDDEN, 404: Code.NOT_FOUND, 409: Code.EXISTS}

T = TypeVar("T")


class Keys(msgspec.Struct, frozen=True):
    """Who signs in this cluster; of interest here is which cluster it is."""

    cluster: str


class Tokens(msgspec.Struct, frozen=True):
    """A signed-in device."""

    access_token: str
    access_expires_s: float
    refresh_token: str
    cluster: str


class Ticket(msgspec.Struct, frozen=True):
    """An identity ticket for one space."""

    ticket: str
    expires_s: float
    space: int
    role: str


class SpaceInfo(msgspec.Struct, frozen=True):
    """A space the user may use."""

    id: int
    name: str
    role: str


class _Error(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class AuthClient:
    """An async context manager over one HTTP connection pool."""

    def __init__(
        self, url: str, tls: ssl.SSLContext | None = None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._url = url
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=TIMEOUT_S,
            verify=tls if tls is not None else url.startswith("https:"),
            transport=transport,
            trust_env=False,
        )

    async def __aenter__(self) -> "AuthClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def keys(self) -> Keys:
        """Which cluster this is."""
        return await self._ask("GET", "/v1/keys", Keys)

    async def sign_up(self, user: str, password: str, device: str) -> Tokens:
        """Make an account with its first space, signed in."""
        return await self._sign("/v1/signup", user, password, device)

    async def sign_in(self, user: str, password: str, device: str) -> Tokens:
        """Sign in."""
        return await self._sign("/v1/login", user, password, device)

    async def refresh(self, refresh_token: str) -> Tokens:
        """Fresh tokens for a signed-in device; the old refresh token is spent."""
        return await self._ask("POST", "/v1/refresh", Tokens, body={"refresh_token": refresh_token})

    async def ticket(self, access_token: str, space: int | str) -> Ticket:
        """An identity ticket for a space (id, name, or "" for the user's first)."""
        return await self._ask("POST", "/v1/tickets", Ticket, body={"space": space}, token=access_token)

    async def spaces(self, access_token: str) -> list[SpaceInfo]:
        """The spaces the user may use."""
        return await self._ask("GET", "/v1/spaces", list[SpaceInfo], token=access_token)

    async def _sign(self, path: str, user: str, password: str, device: str) -> Tokens:
        return await self._ask(
            "POST", path, Tokens, body={"user": user, "password": password, "device": device}
        )

    async def _ask(
        self,
        method: str,
        path: str,
        reply: type[T],
        *,
        body: dict[str, object] | None = None,
        token: str | None = None,
    ) -> T:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            answer = await self._http.request(method, path, json=body, headers=headers)
        except httpx.TimeoutException:
            raise Unavailable(Code.TIMEOUT, f"the auth server {self._url} did not answer in time") from None
        except httpx.HTTPError as error:
            raise await http_fault(error, self._url) or Unavailable(
                Code.UNREACHABLE, f"the auth server {self._url} cannot be reached: {error}"
            ) from None
        if answer.status_code >= httpx.codes.BAD_REQUEST:
            raise _error_in(answer, self._url)
        try:
            return msgspec.json.decode(answer.content, type=reply)
        except msgspec.DecodeError as error:
            raise Unavailable(Code.INTERNAL, f"the auth server {self._url} answered oddly: {error}") from None


def _error_in(answer: httpx.Response, url: str) -> CloudVergeError:
    try:
        said = msgspec.json.decode(answer.content, type=_Error)
    except msgspec.DecodeError:
        said = _Error()
    if said.code in Code.__members__:
        return make_error(Code[said.code], said.message)
    code = _CODE_OF_STATUS.get(answer.status_code, Code.UNAVAILABLE)
    return make_error(code, said.message or f"the auth server {url} answered {answer.status_code}")
