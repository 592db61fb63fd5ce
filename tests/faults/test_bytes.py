"""The bytes of the mount against real servers that are killed, cut off and corrupted. No FUSE, no names.

The names side is a dictionary; the metaserver, the chunkservers and the disks are the real ones.
"""

import os
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from cloudverge_mount import chunkclient
from cloudverge_mount.content import Budgets, Content
from cloudverge_mount.link import Link
from cloudverge_mount.metaclient import MetaClient
from cloudverge_protocol import messages as m
from cloudverge_protocol.errors import ChunkFault, CloudVergeError, Code
from cloudverge_protocol.extents import clip, splice
from cloudverge_protocol.ids import PROTOCOL_VERSION
from tests.fixtures.flakyproxy import CALM, FlakyProxy, Weather

pytestmark = pytest.mark.trio

MIB = 1 << 20
INO = 5000
LIFE = {"password": "correct horse battery staple", "device": "bytes"}


class Names:
    """Sizes and extents in dictionaries."""

    def __init__(self, replicas):
        self.replicas = replicas
        self.content = None
        self.size = {}
        self.journaled = {}
        self.extents = {}
        self.receipts = ()
        self.commit = None

    async def flush(self, ino):
        """An fsync: durable, and the metaserver knows it."""
        await self.content.flush(ino)
        receipts, self.receipts = self.receipts, ()
        await self.commit(receipts)

    async def file_extents(self, ino, offset, length):
        return clip(self.extents.get(ino, ()), offset, offset + length)

    def log_spill(self, record):
        pass

    def enter_write(self, ino, extents, receipts, durable_below, spilled_through):
        for extent in extents:
            proofs = [r for r in receipts if r.chunk == extent.chunk]
            assert len({r.server for r in proofs}) == self.replicas
            assert all(r.length >= extent.chunk_offset + extent.length for r in proofs)
        self.receipts += receipts
        self.journaled[ino] = max(self.journaled_size(ino), min(self.size.get(ino, 0), durable_below))
        self.extents[ino] = splice(self.extents.get(ino, ()), extents)
        return 0

    def hurry(self):
        pass

    def content_settled(self, ino):
        pass

    def chunk_done(self, chunk):
        pass

    def journaled_size(self, ino):
        return self.journaled.get(ino, 0)

    async def write(self, ino, offset, data):
        await self.content.write(ino, offset, data)
        self.size[ino] = max(self.size.get(ino, 0), offset + len(data))

    async def read(self, ino):
        """All of it, in reads as the kernel sends them, past the RAM cache."""
        self.content._cache.clear()
        parts = []
        for offset in range(0, self.size[ino], 128 << 10):
            length = min(128 << 10, self.size[ino] - offset)
            parts.append(await self.content.read(ino, offset, length))
        return b"".join(parts)


class Rights:
    """A session as the metaserver gave it."""

    def __init__(self, space, reply):
        self.space = space
        self.session = reply.session
        self.incarnation = reply.incarnation
        self.lease_epoch = reply.lease_epoch
        self.confined = False

    @property
    def ref(self):
        return m.SessionRef(self.session, self.incarnation, self.lease_epoch)


class Device:
    """Signed in, with fresh identity tickets."""

    def __init__(self, report, http, token):
        self.cluster = report["cluster"]
        self._http = http
        self._head = {"Authorization": f"Bearer {token}"}

    async def ticket(self):
        reply = await self._http.post("/v1/tickets", json={"space": ""}, headers=self._head)
        reply.raise_for_status()
        return reply.json()

    async def hello(self):
        return m.Hello(PROTOCOL_VERSION, (await self.ticket())["ticket"], self.cluster)


async def signed_in(cluster, http):
    body = {"user": f"bytes{os.urandom(4).hex()}", **LIFE}
    (await http.post("/v1/signup", json=body)).raise_for_status()
    reply = await http.post("/v1/login", json=body)
    reply.raise_for_status()
    return Device(cluster.report, http, reply.json()["access_token"])


@pytest.fixture
def content_on(tmp_path: Path):
    """``async with content_on(cluster) as names``: bytes over the cluster's own servers."""

    @asynccontextmanager
    async def opened(cluster, replicas=2):
        async with httpx.AsyncClient(base_url=cluster.report["auth_url"]) as http:
            device = await signed_in(cluster, http)
            space = int((await device.ticket())["space"])
            async with trio.open_nursery() as nursery:
                meta = MetaClient(Link(lambda: cluster.address("metaserver-1"), device.hello, nursery))
                asked = m.SessionOpen(space, os.urandom(16), "bytes")
                rights = Rights(space, await meta.open_session(asked))
                nursery.start_soon(renew_for_ever, meta, rights)
                names = Names(replicas)
                names.commit = partial(commit, meta, rights)
                cache = tmp_path / "cache"
                content = Content(meta, rights, device.cluster, cache, names, Budgets(disk_cache_bytes=0))
                names.content = content
                content.finish_restore()
                await nursery.start(content.run)
                yield names
                nursery.cancel_scope.cancel()
            await content.aclose()

    return opened


async def commit(meta, rights, receipts):
    await meta.batch(m.Batch(rights.session, rights.incarnation, rights.lease_epoch, receipts, ()))


async def renew_for_ever(meta, rights):
    while True:
        await trio.sleep(3)
        try:
            await meta.renew(rights.ref)
        except CloudVergeError:
            pass


async def stream(names, ino, data, steps):
    """Write ``data`` in MiBs; ``steps`` are done at their MiB."""
    for number in range(len(data) // MIB):
        if number in steps:
            await trio.to_thread.run_sync(steps[number])
        await names.write(ino, number * MIB, data[number * MIB : (number + 1) * MIB])
        await trio.sleep(0.005)


def chunk_files(cluster, server):
    folder = Path(cluster.server(server)["data_dir"]) / "chunks"
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 100_000)


async def test_a_chunkserver_killed_in_mid_stream_costs_no_byte(make_cluster, content_on):
    cluster = make_cluster()
    cluster.up()
    async with content_on(cluster) as names:
        data = os.urandom(48 * MIB)
        await stream(names, INO, data, {16: lambda: cluster.kill("chunkserver-2")})
        with trio.fail_after(30):
            await names.content.flush(INO)
            assert await names.read(INO) == data


async def test_every_chunkserver_killed_and_started_again_costs_no_byte(make_cluster, content_on):
    cluster = make_cluster()
    cluster.up()
    async with content_on(cluster) as names:
        data = os.urandom(40 * MIB)

        def kill_all():
            for name in cluster.chunkservers():
                cluster.kill(name)

        await stream(names, INO, data, {10: kill_all, 20: cluster.up})
        with trio.fail_after(40):
            await names.content.flush(INO)
            assert await names.read(INO) == data


async def test_the_metaserver_killed_and_started_again_costs_no_byte(make_cluster, content_on):
    cluster = make_cluster()
    cluster.up()
    async with content_on(cluster) as names:
        data = os.urandom(100 * MIB)
        await stream(names, INO, data, {20: lambda: cluster.kill("metaserver-1"), 60: cluster.up})
        with trio.fail_after(60):
            await names.content.flush(INO)
            assert await names.read(INO) == data


async def test_damaged_files_of_one_server_are_read_from_the_other_and_shown(make_cluster, content_on):
    cluster = make_cluster(chunkservers=2)
    cluster.up()
    async with content_on(cluster) as names:
        data = os.urandom(3 * MIB)
        for kind in ("flipped", "truncated", "deleted"):
            await stream(names, INO, data, {})
            await names.flush(INO)
            path = chunk_files(cluster, "chunkserver-1")[-1]
            spoil(path, kind)
            names.content.damage.clear()
            for _ in range(6):
                assert await names.read(INO) == data, kind
            assert len({seen.server for seen in names.content.damage}) <= 1


def spoil(path, kind):
    if kind == "flipped":
        with path.open("r+b") as file:
            file.seek(300_000)
            byte = file.read(1)
            file.seek(300_000)
            file.write(bytes([byte[0] ^ 0x40]))
    elif kind == "truncated":
        os.truncate(path, 200_000)
    else:
        path.unlink()


async def test_both_copies_damaged_give_an_error_and_never_wrong_bytes(make_cluster, content_on):
    cluster = make_cluster(chunkservers=2)
    cluster.up()
    async with content_on(cluster) as names:
        data = os.urandom(2 * MIB)
        await stream(names, INO, data, {})
        await names.flush(INO)
        for server in cluster.chunkservers():
            for path in chunk_files(cluster, server):
                spoil(path, "flipped")
        with trio.fail_after(25), pytest.raises(ChunkFault) as caught:
            await names.read(INO)
        assert caught.value.code == Code.DAMAGED
        assert names.content.damage


@pytest.fixture
def proxied(monkeypatch):
    """Puts a proxy before each chunkserver, for this process alone."""
    proxies = Proxies()
    link = chunkclient.ChunkClients._link

    def through_proxy(self, place, purpose):
        return link(self, proxies.before(place), purpose)

    monkeypatch.setattr(chunkclient.ChunkClients, "_link", through_proxy)
    yield proxies
    proxies.close()


class Proxies:
    """One proxy for each chunkserver that is spoken to."""

    def __init__(self):
        self._weather = CALM
        self._proxies = {}

    def before(self, place):
        proxy = self._proxies.get(place.server)
        if proxy is None:
            proxy = self._proxies[place.server] = FlakyProxy((place.host, place.port), seed=place.server)
            proxy.weather = self._weather
            proxy.__enter__()
        return m.Place(place.server, "127.0.0.1", proxy.port)

    def turn(self, weather):
        self._weather = weather
        for proxy in self._proxies.values():
            proxy.weather = weather

    def close(self):
        for proxy in self._proxies.values():
            proxy.__exit__()


async def test_a_line_that_cuts_delays_and_corrupts_gives_the_right_bytes(
    make_cluster, content_on, proxied, monkeypatch
):
    monkeypatch.setattr(chunkclient, "CONNECT_TIMEOUT_S", 1.0)
    cluster = make_cluster()
    cluster.up()
    async with content_on(cluster) as names:
        data = os.urandom(8 * MIB)
        await names.write(INO, 0, b"x")
        await names.content.flush(INO)
        for weather in (Weather(cut=0.02), Weather(corrupt=0.02), Weather(delay_s=0.02), CALM):
            proxied.turn(weather)
            await stream(names, INO, data, {})
            while names.content.is_dirty(INO):
                try:
                    with trio.fail_after(30):
                        await names.content.flush(INO)
                except CloudVergeError:
                    proxied.turn(CALM)
            for _ in range(2):
                try:
                    with trio.fail_after(120):
                        assert await names.read(INO) == data
                except CloudVergeError:
                    assert weather is not CALM
        await names.content.flush(INO)
        assert await names.read(INO) == data


async def test_a_silent_line_fails_in_time_and_heals(make_cluster, content_on, proxied):
    cluster = make_cluster()
    cluster.up()
    async with content_on(cluster) as names:
        await names.write(INO, 0, b"before")
        await names.content.flush(INO)
        proxied.turn(Weather(silent=True))
        await names.write(INO, 0, b"behind")
        with trio.fail_after(30), pytest.raises(CloudVergeError):
            await names.content.flush(INO)
        assert names.content.is_dirty(INO)
        proxied.turn(CALM)
        with trio.fail_after(30):
            await names.content.flush(INO)
            assert await names.read(INO) == b"behind"
