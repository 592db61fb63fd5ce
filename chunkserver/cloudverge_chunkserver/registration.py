"""Membership in the cluster: registering, heartbeats, fresh keys.

The metaserver may be away at any time: everything is tried again for ever, with a growing pause. What it said
last is kept in the data folder, so that this server goes on serving meanwhile. Another cluster's metaserver is
the one thing that is not tried again: ``run`` then raises, because storing for two clusters would mix them.
"""

import asyncio
import base64
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx
import msgspec
import structlog

from cloudverge_chunkserver.home import Home, Membership
from cloudverge_protocol.errors import Code, Denied, ProtocolFault, Unavailable
from cloudverge_protocol.ids import ServerId
from cloudverge_protocol.receipts import HEARTBEAT_HEADER, heartbeat_proof

log = structlog.get_logger("cloudverge.chunkserver.registration")

HEARTBEAT_S: Final = 3.0
HTTP_TIMEOUT_S: Final = 10.0
PAUSE_MIN_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
Joined = Callable[[Membership, str, Mapping[int, str] | None, Mapping[int, int]], None]
_REGISTER_AGAIN: Final = frozenset({401, 403, 404, 409, 410})


class Report(msgspec.Struct, frozen=True):
    """What a heartbeat says."""

    free_bytes: int
    capacity_bytes: int
    open_bytes: int
    chunks: int
    damaged: list[int]
    full: bool


class Address(msgspec.Struct, frozen=True):
    """Where others find this server."""

    host: str
    frame_port: int
    http_url: str
    rack: str


class _Keys(msgspec.Struct, frozen=True):
    auth_keys: dict[str, Any]
    meta_keys: dict[str, Any]
    server_ticket: str
    heartbeat_s: float = HEARTBEAT_S
    history: str = ""
    hosts: dict[int, str] | None = None  # of all chunkservers, by id
    epochs: dict[int, int] = {}  # membership epochs of spaces that were raised lately


class _Registered(_Keys, frozen=True, kw_only=True):
    server_id: int
    cluster: str


def pause_s(failures: int, luck: float) -> float:
    """How long to wait after the n-th failure in a row; ``luck`` in [0, 1) spreads the callers."""
    longest_s: float = min(PAUSE_MAX_S, PAUSE_MIN_S * 2 ** min(failures, 10))
    return longest_s * (0.5 + luck / 2)


def _key_table(keys: dict[str, Any]) -> dict[str, str]:
    """{kid: key} from that or from {"keys": {kid: key}}."""
    inner = keys.get("keys", keys)
    return msgspec.convert(inner, dict[str, str])


class Registration:
    """Keeps one server known to the metaserver; ``joined`` is called with each news."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        join_token: Callable[[], str],
        home: Home,
        report: Callable[[], Report],
        joined: Joined,
    ) -> None:
        self._client = client
        self._join_token = join_token
        self._home = home
        self.address = Address("", 0, "", "")  # to be set before ``run``
        self._report = report
        self._joined = joined
        self._wake = asyncio.Event()
        self.registered = asyncio.Event()

    def poke(self) -> None:
        """There is news (damage, a full disk): do not wait for the next heartbeat."""
        self._wake.set()

    async def run(self) -> None:
        """Register, then report for ever."""
        failures = 0
        while True:
            try:
                wait_s = await (self._beat() if self.registered.is_set() else self._register())
                failures = 0
            except (httpx.HTTPError, Unavailable, Denied, OSError, msgspec.DecodeError) as error:
                wait_s = pause_s(failures, random.random())  # noqa: S311 - spreads retries, no secret
                failures += 1
                log.log(30 if failures == 3 else 10, "the metaserver cannot be reached", why=str(error))
            await self._sleep(wait_s)

    async def _sleep(self, seconds: float) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _post(self, path: str, body: bytes, **headers: str) -> httpx.Response:
        headers |= {"authorization": f"Bearer {self._join_token()}", "content-type": "application/json"}
        response = await self._client.post(path, content=body, headers=headers)
        if response.status_code == 400 and b'"WRONG_CLUSTER"' in response.content:
            raise ProtocolFault(
                Code.WRONG_CLUSTER, f"{self._home.folder} belongs to another cluster than this metaserver"
            )
        if response.status_code in _REGISTER_AGAIN:
            self.registered.clear()
            raise Denied(Code.UNAUTHORIZED, f"{path}: {response.status_code} {response.text[:200]}")
        if response.status_code != 200:
            raise Unavailable(Code.UNAVAILABLE, f"the metaserver answered {response.status_code} to {path}")
        return response

    async def _register(self) -> float:
        report = self._report()
        address = self.address
        body = {
            "server_uuid": self._home.uuid,
            "cluster": self._home.membership.cluster if self._home.membership else "",
            "host": address.host,
            "frame_port": address.frame_port,
            "http_url": address.http_url,
            "capacity_bytes": report.capacity_bytes,
            "free_bytes": report.free_bytes,
            "receipt_key": base64.b64encode(self._home.receipt_key).decode(),
            "rack": address.rack,
        }
        response = await self._post("/v1/servers/register", msgspec.json.encode(body))
        answer = msgspec.json.decode(response.content, type=_Registered)
        self._take(ServerId(answer.server_id), answer.cluster, answer)
        self.registered.set()
        return 0.0

    async def _beat(self) -> float:
        member = self._home.membership
        assert member is not None
        body = msgspec.json.encode(self._report())
        proof = {HEARTBEAT_HEADER: heartbeat_proof(self._home.receipt_key, member.server, body)}
        response = await self._post(f"/v1/servers/{member.server}/heartbeat", body, **proof)
        answer = msgspec.json.decode(response.content, type=_Keys)
        self._take(member.server, member.cluster, answer)
        return max(0.1, answer.heartbeat_s)

    def _take(self, server: ServerId, cluster: str, news: _Keys) -> None:
        known = self._home.membership
        history = news.history or (known.history if known is not None else "")
        try:
            member = Membership(
                server, cluster, history, _key_table(news.auth_keys), _key_table(news.meta_keys)
            )
        except msgspec.ValidationError as error:
            raise ProtocolFault(Code.BAD_REQUEST, f"the metaserver sent malformed keys: {error}") from None
        self._home.join(member)
        self._joined(member, news.server_ticket, news.hosts, news.epochs)
