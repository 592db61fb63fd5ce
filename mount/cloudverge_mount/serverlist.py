"""The cluster's servers as the metaserver sees them, for ``cv status``. Asked only when somebody looks."""

import ssl
from typing import Any, Final

import httpx
import trio

from cloudverge_protocol.errors import CloudVergeError

TIMEOUT_S: Final = 2.0
FRESH_S: Final = 2.0


class ServerList:
    """Remembers the last answer for a moment, and gives none when the metaserver does not answer soon."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._known: list[dict[str, Any]] = []
        self._asked_at = -FRESH_S

    async def get(self, url: str, ticket: str) -> list[dict[str, Any]]:
        """The servers, each with name, state and room; empty if that is not to be had now."""
        if not url or trio.current_time() < self._asked_at + FRESH_S:
            return self._known
        try:
            async with httpx.AsyncClient(
                timeout=TIMEOUT_S, verify=self._tls or url.startswith("https:"), trust_env=False
            ) as http:
                answer = await http.get(f"{url}/v1/servers", headers={"Authorization": f"Bearer {ticket}"})
            self._known = list(answer.raise_for_status().json()["servers"])
        except (httpx.HTTPError, CloudVergeError, ValueError, KeyError, TypeError):
            self._known = []
        self._asked_at = trio.current_time()
        return self._known
