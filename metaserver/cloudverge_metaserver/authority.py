"""Auth as this server asks it: what has been revoked, whether a link's secret still opens it, what was purged.

Every request carries the join token and has a deadline. Auth's refusals come out as the errors they are; that it
refuses *us* (another join token) or cannot be reached is Unavailable, so nobody is told that something is absent
only because auth is. Secrets and passwords go into bodies, and into no error and no log.
"""

import asyncio
from pathlib import Path
from typing import Final, TypeVar

import httpx
import msgspec

from cloudverge_protocol.errors import CloudVergeError, Code, Unavailable, make_error
from cloudverge_protocol.ids import GrantId, InodeId, SpaceId
from cloudverge_protocol.refusals import read_refusal
from cloudverge_wire.listen import client_tls

ASK_WITHIN_S: Final = 5.0
_CODE_OF_STATUS: Final = {403: Code.FORBIDDEN, 404: Code.NOT_FOUND, 429: Code.BUSY}

T = TypeVar("T")


class Ended(msgspec.Struct, frozen=True):
    """What ended lately: epochs that were raised, links; and the spaces that are to be purged."""

    spaces: dict[int, int] = {}
    links: tuple[int, ...] = ()
    deleted: tuple[int, ...] = ()


class OpenedLink(msgspec.Struct, frozen=True):
    """A public link that its secret (and password) opens: one file, until a moment (0 or None: no end)."""

    id: GrantId
    space: SpaceId
    ino: InodeId
    name: str = ""
    until: float | None = None


class Authority:
    """See the module's text."""

    def __init__(self, url: str, join_token: str, ca: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.AsyncClient(
            base_url=self._url,
            headers={"Authorization": f"Bearer {join_token}"},
            timeout=ASK_WITHIN_S,
            verify=client_tls(ca) if ca else True,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def ended(self) -> Ended:
        """What ended in the last three minutes."""
        return await self._ask("GET", "/v1/revocations", None, Ended)

    async def purged(self, space: SpaceId) -> None:
        """Nothing of ``space`` is left here."""
        await self._ask("POST", f"/v1/spaces/{space}/purged", {}, dict[str, object])

    async def open_link(self, secret: str, password: str, address: str, *, count: bool) -> OpenedLink:
        """What a link opens; ``count``: as one more download. ``address``: whose attempts at passwords are limited.

        Raises Refused(NOT_FOUND) if it opens nothing (any more), Denied(FORBIDDEN) if its password is another or
        missing, Refused(BUSY) after too many attempts.
        """
        body: dict[str, object] = {"secret": secret, "address": address, "count": count}
        if password:
            body["password"] = password
        return await self._ask("POST", "/v1/links/open", body, OpenedLink)

    async def _ask(self, method: str, path: str, body: dict[str, object] | None, reply: type[T]) -> T:
        try:
            async with asyncio.timeout(ASK_WITHIN_S):
                answer = await self._client.request(method, path, json=body)
        except (TimeoutError, httpx.TimeoutException):
            raise Unavailable(Code.TIMEOUT, f"auth at {self._url} did not answer in time") from None
        except httpx.HTTPError as error:
            raise Unavailable(Code.UNREACHABLE, f"auth at {self._url} cannot be reached: {error}") from None
        if answer.status_code >= httpx.codes.BAD_REQUEST:
            raise _refusal(answer, self._url)
        try:
            return msgspec.json.decode(answer.content, type=reply)
        except msgspec.DecodeError as error:
            raise Unavailable(Code.INTERNAL, f"auth at {self._url} answered oddly: {error}") from None


def _refusal(answer: httpx.Response, url: str) -> CloudVergeError:
    said = read_refusal(answer.content)
    code = said.code or _CODE_OF_STATUS.get(answer.status_code, Code.UNAVAILABLE)
    if code == Code.UNAUTHORIZED:
        return Unavailable(Code.UNAVAILABLE, f"auth at {url} does not accept the join token of this server")
    error = make_error(code, said.message or f"auth at {url} answered {answer.status_code}")
    seconds = answer.headers.get("retry-after", "")
    error.retry_after_s = float(seconds) if seconds.isdecimal() else 0.0
    return error
