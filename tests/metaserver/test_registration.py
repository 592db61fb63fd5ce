"""A chunkserver that was broken into has the join token, and yet cannot take another's place.

Over the metaserver's HTTP, as it would try: what it knows is everything but the other's receipt key.
"""

import base64
import secrets
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest

from cloudverge_auth.keys import SigningKey
from cloudverge_metaserver.cluster import Cluster
from cloudverge_metaserver.routes import make_app
from cloudverge_metaserver.tickets import TicketDesk
from cloudverge_protocol.receipts import HEARTBEAT_HEADER, heartbeat_proof
from cloudverge_wire.clusterid import ClusterIds

pytestmark = pytest.mark.anyio

JOIN_TOKEN = "a-join-token-of-a-test-cluster-0123456789"
REPORT = {"free_bytes": 1000, "capacity_bytes": 2000, "chunks": 0, "damaged": []}


class Server:
    """A chunkserver as far as registration goes."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.uuid, self.key = secrets.token_hex(16), secrets.token_bytes(32)
        self.number = 0

    async def register(self, host: str = "10.0.0.1", **claims: object) -> httpx.Response:
        body = {
            "server_uuid": self.uuid, "host": host, "frame_port": 7000, "http_url": "", "capacity_bytes": 2000,
            "free_bytes": 1000, "receipt_key": base64.b64encode(self.key).decode(), **claims,
        }  # fmt: skip
        answer = await self._http.post("/v1/servers/register", json=body)
        if answer.status_code == 200:
            self.number = answer.json()["server_id"]
        return answer

    async def beat(self, number: int, proof: str | None = None, sent: bytes | None = None) -> httpx.Response:
        body = msgspec.json.encode(REPORT)
        proof = heartbeat_proof(self.key, number, body) if proof is None else proof
        headers = {HEARTBEAT_HEADER: proof.encode("latin-1"), "content-type": b"application/json"}
        return await self._http.post(f"/v1/servers/{number}/heartbeat", content=sent or body, headers=headers)


@pytest.fixture
async def http(world) -> AsyncIterator[httpx.AsyncClient]:
    key = SigningKey.generate()
    keys = SimpleNamespace(ring=key.ring())
    cluster = Cluster(
        ids=ClusterIds("c" * 32, "h" * 32),
        database=world.database,
        keys=keys,
        ring=key.ring(),
        desk=TicketDesk(key, "c" * 32),
        servers=world.servers,
        join_token=JOIN_TOKEN,
        replicas=1,
        suspect=lambda *_: None,
    )
    nobody: Any = SimpleNamespace(gateway=None, revocations=None, paths=None, log=None)
    transport = httpx.ASGITransport(make_app(cluster, nobody))
    headers = {"authorization": f"Bearer {JOIN_TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://meta", headers=headers) as client:
        yield client


@pytest.fixture
async def victim(http) -> Server:
    made = Server(http)
    assert (await made.register()).status_code == 200
    return made


async def test_a_server_comes_back_with_its_key_at_another_address_under_its_number(victim, world):
    first = victim.number
    assert (await victim.register(host="10.0.0.2")).status_code == 200
    assert victim.number == first
    assert await world.value("select host from meta.servers where server = $1", first) == "10.0.0.2"


async def test_another_key_does_not_register_under_a_known_uuid(victim, http, world):
    thief = Server(http)
    thief.uuid = victim.uuid
    answer = await thief.register(host="10.6.6.6")
    assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
    rows = await world.sql("select host, receipt_key from meta.servers where uuid = $1", victim.uuid)
    assert [tuple(row) for row in rows] == [("10.0.0.1", victim.key)]
    assert (await victim.register()).status_code == 200


async def test_a_server_beats_for_itself_and_is_told_the_news(victim):
    answer = await victim.beat(victim.number)
    assert answer.status_code == 200
    assert answer.json()["server_id"] == victim.number


@pytest.mark.parametrize(
    "how", ["without a proof", "with its own", "with a foreign letter", "replayed with more"]
)
async def test_nobody_beats_for_another_server_and_gets_its_ticket(victim, http, world, how):
    thief = Server(http)
    await thief.register()
    await world.sql("update meta.servers set last_seen = now() - interval '1 hour' returning 1")
    body = msgspec.json.encode(REPORT)
    genuine = heartbeat_proof(victim.key, victim.number, body)
    answer = await {
        "without a proof": lambda: thief.beat(victim.number, ""),
        "with its own": lambda: thief.beat(victim.number),
        "with a foreign letter": lambda: thief.beat(victim.number, "\xe9" * 32),
        "replayed with more": lambda: thief.beat(victim.number, genuine, sent=body[:-1] + b',"full":true}'),
    }[how]()
    assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
    assert "server_ticket" not in answer.text
    unheard = "select extract(epoch from now() - last_seen)::int from meta.servers where server = $1"
    assert await world.value(unheard, victim.number) >= 3600


async def test_a_heartbeat_of_another_server_does_not_count_for_oneself(victim, http):
    other = Server(http)
    await other.register()
    body = msgspec.json.encode(REPORT)
    answer = await victim.beat(victim.number, heartbeat_proof(victim.key, other.number, body))
    assert answer.status_code == 403


async def test_a_server_that_never_registered_is_told_to(victim):
    assert (await victim.beat(victim.number + 1000)).json()["code"] == "NOT_FOUND"
