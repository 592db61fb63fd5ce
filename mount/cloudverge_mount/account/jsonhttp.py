"""Asking an HTTP server of the cluster: a request, a typed answer, every failure as an error of the tree.

Never logs or repeats a body, which may hold secrets. A request that the server finds malformed is the fault of what
somebody typed, so it becomes Refused, not a fault of the protocol.
"""

import ssl
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
import msgspec

from cloudverge_mount.transport import http_fault
from cloudverge_protocol.errors import CloudVergeError, Code, Refused, Unavailable, make_error
from cloudverge_protocol.refusals import read_refusal

TIMEOUT_S: Final = 10.0
_CODE_OF_STATUS: Final = {
    401: Code.UNAUTHORIZED,
    403: Code.FORBIDDEN,
    404: Code.NOT_FOUND,
    409: Code.EXISTS,
    429: Code.BUSY,
}

T = TypeVar("T")


class JsonHttp:
    """One server at one URL; an async context manager over its connections. ``what`` names it in errors."""

    def __init__(
        self,
        what: str,
        url: str,
        tls: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._name, self._url = f"the {what} {url}", url
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=TIMEOUT_S,
            verify=tls if tls is not None else url.startswith("https:"),
            transport=transport,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        reply: type[T],
        *,
        body: dict[str, object] | None = None,
        params: dict[str, str] | None = None,
        token: str = "",
    ) -> T:
        """The answer to one request; raises CloudVergeError."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            answer = await self._http.request(method, path, json=body, params=params, headers=headers)
        except httpx.TimeoutException:
            raise Unavailable(Code.TIMEOUT, f"{self._name} did not answer in time") from None
        except httpx.HTTPError as error:
            raise await http_fault(error, self._url) or Unavailable(
                Code.UNREACHABLE, f"{self._name} cannot be reached: {error}"
            ) from None
        if answer.status_code >= httpx.codes.BAD_REQUEST:
            raise _error_in(answer, self._name)
        try:
            return msgspec.json.decode(answer.content, type=reply)
        except msgspec.DecodeError as error:
            raise Unavailable(Code.INTERNAL, f"{self._name} answered oddly: {error}") from None


def _error_in(answer: httpx.Response, name: str) -> CloudVergeError:
    said = read_refusal(answer.content)
    if said.code == Code.BAD_REQUEST:
        return Refused(Code.INVALID, said.message)
    if said.code is not None:
        return make_error(said.code, said.message)
    code = _CODE_OF_STATUS.get(answer.status_code, Code.UNAVAILABLE)
    return make_error(code, said.message or f"{name} answered {answer.status_code}")
