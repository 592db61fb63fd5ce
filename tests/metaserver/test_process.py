"""A running metaserver with its sockets and its background work, and real chunkserver processes beside it."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import pytest

from cloudverge_auth.keys import SigningKey
from cloudverge_auth.tokens import Identity, sign_identity
from cloudverge_metaserver.app import started
from cloudverge_metaserver.settings import MetaSettings
from cloudverge_protocol.checksum import piece_crcs
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.ids import PROTOCOL_VERSION
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.messages import (
    Append,
    Batch,
    BatchReply,
    ChunkAllocate,
    ChunkGrant,
    ChunkLocate,
    ChunkSeal,
    ChunkSealed,
    Damage,
    FrameType,
    Hello,
    Read,
    SessionOpen,
    SessionRef,
    SessionReply,
    Tickets,
    Tree,
)
from cloudverge_protocol.operations import ChunkDone, Create, Entry, Unlink, Write
from cloudverge_wire.arguments import parse
from cloudverge_wire.frameclient import FrameClient
from cloudverge_wire.process import Endpoints

pytestmark = [pytest.mark.anyio, pytest.mark.faults]
JOIN_TOKEN = "a-join-token-of-a-test-cluster-0123456789"


class Chunkserver:
    """A chunkserver process; ``kill`` and ``start`` at will."""

    def __init__(self, folder: Path, metaserver: str) -> None:
        self.folder = folder
        self._metaserver = metaserver
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    async def start(self) -> None:
        ready = self.folder.with_suffix(".ready")
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "cloudverge_chunkserver", "--data-dir", self.folder]
        command += ["--metaserver-url", self._metaserver, "--join-token-file", self.folder.parent / "join"]
        command += ["--ready-file", ready, "--frame-port", self.port]
        self.process = subprocess.Popen([str(part) for part in command])  # noqa: ASYNC220
        await until(ready.exists, "the chunkserver is ready")
        self.port = int(json.loads(ready.read_text())["frames"].rpartition(":")[2])

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def files(self, chunk: int) -> list[Path]:
        """What it keeps of a chunk."""
        return [path for path in self.folder.rglob("*") if path.is_file() and f"{chunk:x}" in path.name]


async def until(condition, what: str, within_s: float = 30.0) -> None:
    """Wait for a condition, which may be a coroutine function."""
    deadline = time.monotonic() + within_s
    while True:
        met = condition()
        if asyncio.iscoroutine(met):
            met = await met
        if met:
            return
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.05)


class Machine:
    """The servers that all tests here share, each test in a space of its own."""

    def __init__(self, endpoints: Endpoints, key: SigningKey, world) -> None:
        self.endpoints, self.key, self.world = endpoints, key, world
        self.cluster = ""
        self.servers: dict[int, Chunkserver] = {}

    async def all_up(self) -> None:
        """Start the chunkservers that are dead and wait until all are heard of."""
        down = [server for server in self.servers.values() if server.process is None]
        await asyncio.gather(*(server.start() for server in down))

        async def heard() -> bool:
            late = "select count(*) from meta.servers where last_seen < now() - interval '8 s'"
            return await self.world.value(late) == 0

        await until(heard, "all chunkservers are heard of")


@dataclass
class Running:
    """One user's mount, spoken by hand."""

    machine: Machine
    identity: Identity
    cache_id: bytes = field(default_factory=lambda: os.urandom(16))
    numbers: int = 0
    ids: int = 0

    @property
    def servers(self) -> dict[int, Chunkserver]:
        return self.machine.servers

    @property
    def space(self) -> int:
        return self.identity.space

    def hello(self) -> Hello:
        token = sign_identity(self.machine.key, self.machine.cluster, self.identity, time.time())
        return Hello(PROTOCOL_VERSION, token)

    async def connect(self) -> None:
        host, port = self.machine.endpoints.frames.split(":")
        self.client = await FrameClient.connect(host, int(port), self.hello)

    async def ask(self, kind: FrameType, message):
        return (await self.client.call(kind, message))[0]

    async def open(self) -> SessionReply:
        self.opened = await self.ask(FrameType.SESSION_OPEN, SessionOpen(self.space, self.cache_id, "desk"))
        self.numbers, self.ids = 0, self.opened.first_id
        return self.opened

    @property
    def ref(self) -> tuple[int, int, int]:
        return (self.opened.session, self.opened.incarnation, self.opened.lease_epoch)

    def id(self) -> int:
        self.ids += 1
        return self.ids

    async def do(self, *ops, receipts=()) -> BatchReply:
        entries = []
        for op in ops:
            self.numbers += 1
            entries.append(Entry(self.opened.incarnation, self.numbers, op))
        reply = await self.ask(FrameType.BATCH, Batch(*self.ref, tuple(receipts), tuple(entries)))
        assert reply.refused_code == 0, reply.refused_message
        return reply

    async def allocate(self) -> ChunkGrant:
        return (await self.ask(FrameType.CHUNK_ALLOCATE, ChunkAllocate(*self.ref))).grants[0]

    async def append(self, grant: ChunkGrant, data: bytes, offset: int = 0, onward: bool = True):
        """Append, synced; to the first server only if not ``onward``."""
        first, *rest = grant.places
        client = await FrameClient.connect(first.host, first.port, self.hello)
        crcs = tuple(piece_crcs(data, offset))
        chain = tuple(rest) if onward else ()
        message = Append(grant.ticket, grant.chunk, grant.epoch, offset, crcs, True, chain)
        reply, _ = await client.call(FrameType.APPEND, message, (data,))
        client.close()
        return reply

    async def stored_file(self, data: bytes) -> tuple[ChunkGrant, int]:
        """A committed file with this content."""
        grant = await self.allocate()
        appended = await self.append(grant, data)
        ino = self.id()
        create = Create(1, b"f%d" % ino, ino, self.id(), 0o100644, 0, 0, 1)
        write = Write(ino, (Extent(0, len(data), grant.chunk, 0),), len(data), 1, 1)
        await self.do(create, write, receipts=appended.receipts)
        return grant, ino

    async def seal(self, grant: ChunkGrant, receipts=()) -> ChunkSealed:
        return await self.ask(FrameType.CHUNK_SEAL, ChunkSeal(*self.ref, grant.chunk, tuple(receipts)))

    async def sql(self, query: str, *arguments):
        return [tuple(row) for row in await self.machine.world.sql(query, *arguments)]

    async def states(self, grant: ChunkGrant) -> dict[int, int]:
        """The states of a chunk's replicas, by server."""
        return dict(await self.sql("select server, state from meta.replicas where chunk = $1", grant.chunk))

    async def read_at(self, server: int, grant: ChunkGrant, length: int) -> bytes:
        tickets = await self.ask(FrameType.TICKETS, Tickets(self.space, *self.ref))
        client = await FrameClient.connect("127.0.0.1", self.servers[server].port, self.hello)
        try:
            _, body = await client.call(FrameType.READ, Read(tickets.read, grant.chunk, 0, length))
        finally:
            client.close()
        return bytes(body)


@pytest.fixture(scope="module")
async def machine(meta_database, make_world_on, tmp_path_factory, anyio_backend) -> AsyncIterator[Machine]:
    """A metaserver in this process and three chunkservers beside it."""
    folder = tmp_path_factory.mktemp("machine")
    world = await make_world_on(meta_database)
    await world.sql("delete from meta.servers returning 1")
    key = SigningKey.generate()
    ((kid, public),) = key.ring().to_public().items()
    await world.sql("insert into meta.known_keys (kid, public) values ($1, $2) returning 1", kid, public)
    for name, text in (("dsn", meta_database), ("join", JOIN_TOKEN)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    options = ["--dsn-file", folder / "dsn", "--join-token-file", folder / "join"]
    options += ["--auth-url", "http://127.0.0.1:9", "--delete-grace-s", "0.2", "--settle-s", "0.2"]
    settings = parse(MetaSettings, [str(option) for option in options])
    servers: list[Chunkserver] = []
    try:
        async with started(settings) as endpoints:
            made = Machine(endpoints, key, world)
            made.cluster = await world.value("select cluster from public.cluster")
            servers += [Chunkserver(folder / name, endpoints.http) for name in ("one", "two", "three")]
            await asyncio.gather(*(server.start() for server in servers))
            numbers = dict(await world.sql("select frame_port, server from meta.servers"))
            made.servers = {numbers[server.port]: server for server in servers}
            yield made
    finally:
        for server in servers:
            server.kill()
        await world.database.close()


_spaces = itertools.count(1)


@pytest.fixture
async def running(machine: Machine, make_identity) -> AsyncIterator[Running]:
    """One user's mount, with every server up."""
    await machine.all_up()
    space = next(_spaces)
    made = Running(machine, make_identity(space=space, user=space))
    await made.connect()
    await made.open()
    yield made
    made.client.close()


def third_server(running: Running, grant: ChunkGrant) -> int:
    (other,) = set(running.servers) - {place.server for place in grant.places}
    return other


async def test_a_sealed_chunk_is_good_on_all_its_servers(running):
    data = os.urandom(200_000)
    grant, _ = await running.stored_file(data)
    assert await running.seal(grant) == ChunkSealed(200_000, False)
    assert await running.seal(grant) == ChunkSealed(200_000, False)
    assert set((await running.states(grant)).values()) == {2}
    for place in grant.places:
        assert await running.read_at(place.server, grant, 200_000) == data


async def test_after_a_seal_nothing_can_be_appended_and_no_ticket_is_given(running):
    grant, _ = await running.stored_file(b"x" * 1000)
    await running.seal(grant)
    with pytest.raises(CloudVergeError) as caught:
        await running.append(grant, b"y", 1000)
    assert caught.value.code in (Code.SEALED, Code.FENCED)
    assert (
        await running.ask(FrameType.TICKETS, Tickets(running.space, *running.ref, (grant.chunk,)))
    ).append == ()


async def test_a_writer_is_told_only_what_all_servers_have_when_one_has_died(running):
    data = os.urandom(100_000)
    grant, _ = await running.stored_file(data)
    lonely = await running.append(grant, b"z" * 5000, 100_000, onward=False)
    dead = grant.places[1].server
    running.servers[dead].kill()
    assert await running.seal(grant, lonely.receipts) == ChunkSealed(100_000, False)
    states = await running.states(grant)
    assert (states[grant.places[0].server], states[dead]) == (2, 5)
    located = await running.ask(FrameType.CHUNK_LOCATE, ChunkLocate(running.space, (grant.chunk,)))
    assert [place.server for place in located.chunks[0].places] == [grant.places[0].server]
    third = third_server(running, grant)
    await until(lambda: has_state(running, grant, third, 2), "a third server has a copy")
    assert (await running.read_at(third, grant, 105_000)) == data + b"z" * 5000
    assert await running.sql(
        "select durable_length, sealed_length from meta.chunks where chunk = $1", grant.chunk
    ) == [(105_000, 105_000)]


async def has_state(running: Running, grant: ChunkGrant, server: int, state: int | None) -> bool:
    return (await running.states(grant)).get(server) == state


async def test_a_replica_left_out_is_removed_when_its_server_is_back_and_others_are_verified(running):
    grant, _ = await running.stored_file(os.urandom(50_000))
    dead = grant.places[1].server
    running.servers[dead].kill()
    await running.seal(grant)
    third = third_server(running, grant)
    await until(lambda: has_state(running, grant, third, 2), "a third server has a copy")
    await running.servers[dead].start()
    await until(lambda: has_state(running, grant, dead, None), "the stale replica is gone", 40)
    assert running.servers[dead].files(grant.chunk) == []


async def test_with_no_server_reachable_a_chunk_waits_damaged_and_recovers(running):
    grant, _ = await running.stored_file(os.urandom(50_000))
    for place in grant.places:
        running.servers[place.server].kill()
    assert await running.seal(grant) == ChunkSealed(50_000, True)
    for place in grant.places:
        await running.servers[place.server].start()
    await until(lambda: has_state(running, grant, grant.places[0].server, 2), "sealed after all", 40)
    assert await running.seal(grant) == ChunkSealed(50_000, False)


async def test_a_takeover_seals_what_the_incarnation_before_had_open(running):
    grant, _ = await running.stored_file(b"x" * 3000)
    spare = await running.allocate()
    await running.open()
    await until(lambda: has_state(running, grant, grant.places[0].server, 2), "sealed")
    rows = await running.sql(
        "select chunk, state, sealed_length, pinned_by is null from meta.chunks where space = $1 order by chunk",
        running.space,
    )
    assert rows == [(grant.chunk, 2, 3000, False), (spare.chunk, 2, 0, False)]


async def test_chunks_that_nothing_refers_to_are_deleted_from_their_servers(running):
    data = os.urandom(30_000)
    grant, ino = await running.stored_file(data)
    await running.do(Unlink(1, b"f%d" % ino, ino, False, 1))
    await running.seal(grant)
    await asyncio.sleep(1)
    assert set((await running.states(grant)).values()) == {2}  # still pinned by the journal
    await running.do(ChunkDone(grant.chunk))
    away = running.servers[grant.places[0].server]
    await until(lambda: gone(running, grant), "the replicas are removed")
    assert away.files(grant.chunk) == []
    assert (
        await running.ask(FrameType.CHUNK_LOCATE, ChunkLocate(running.space, (grant.chunk,)))
    ).chunks == ()


async def gone(running: Running, grant: ChunkGrant) -> bool:
    return await running.states(grant) == {}


async def test_a_replica_on_a_server_that_is_away_is_deleted_when_it_is_back(running):
    grant, ino = await running.stored_file(os.urandom(30_000))
    await running.seal(grant)
    dead = grant.places[0].server
    running.servers[dead].kill()
    await running.do(Unlink(1, b"f%d" % ino, ino, False, 1), ChunkDone(grant.chunk))
    await until(lambda: has_state(running, grant, grant.places[1].server, None), "removed where it can be")
    assert await running.states(grant) == {dead: 6}
    await running.servers[dead].start()
    await until(lambda: gone(running, grant), "removed there too")


async def test_a_flipped_byte_is_found_by_a_readers_report_and_mended(running):
    data = os.urandom(200_000)
    grant, _ = await running.stored_file(data)
    await running.seal(grant)
    hurt = grant.places[0].server
    largest = max(running.servers[hurt].files(grant.chunk), key=lambda path: path.stat().st_size)
    flip_byte(largest, 70_000)
    with pytest.raises(CloudVergeError):
        await running.read_at(hurt, grant, 200_000)
    await running.ask(FrameType.DAMAGE, Damage(running.space, grant.chunk, hurt))

    async def mended() -> bool:
        with contextlib.suppress(CloudVergeError):
            return await running.read_at(hurt, grant, 200_000) == data
        return False

    await until(mended, "the replica is whole again", 40)


def flip_byte(path: Path, position: int) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))


async def test_reports_about_foreign_and_absent_chunks_are_answered_alike(running):
    grant, _ = await running.stored_file(b"x" * 100)
    replies = [
        await running.ask(FrameType.DAMAGE, Damage(running.space, chunk, server))
        for chunk, server in ((grant.chunk, grant.places[0].server), (10**12, 1), (2**63, 2**63), (1, 10**9))
    ]
    assert len({msgspec.msgpack.encode(reply) for reply in replies}) == 1


async def test_a_database_that_is_restarted_costs_an_error_and_nothing_else(running, postgres):
    grant, _ = await running.stored_file(b"x" * 100)
    postgres.kill()
    try:
        started_at = time.monotonic()
        with pytest.raises(CloudVergeError) as caught:
            await running.ask(FrameType.TREE, Tree(running.space, 1))
        assert caught.value.code == Code.UNAVAILABLE
        assert time.monotonic() - started_at < 15
    finally:
        postgres.start()

    async def answers() -> bool:
        with contextlib.suppress(CloudVergeError):
            return bool((await running.ask(FrameType.TREE, Tree(running.space, 1))).folders)
        return False

    await until(answers, "the metaserver serves again")
    await running.ask(FrameType.SESSION_RENEW, SessionRef(*running.ref))
    assert (await running.seal(grant)).length == 100


async def test_metrics_and_status_show_servers_without_secrets(running):
    async with httpx.AsyncClient(base_url=running.machine.endpoints.http, trust_env=False) as client:
        token = running.hello().token
        status = await client.get("/v1/status", headers={"Authorization": f"Bearer {token}"})
        assert [server["state"] for server in status.json()["servers"]] == ["up"] * 3
        assert "key" not in status.text
        metrics = await client.get("/metrics", headers={"Authorization": f"Bearer {JOIN_TOKEN}"})
        assert "cloudverge_server_free_bytes" in metrics.text
        assert (await client.get("/v1/status")).status_code == 401
