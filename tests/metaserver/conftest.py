"""A metaserver's insides on a real database, without its sockets, and callers made by hand."""

import itertools
import os
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field

import asyncpg
import pytest

from cloudverge_auth.keys import SigningKey
from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.app import prepare_database
from cloudverge_metaserver.batches import commit_batch
from cloudverge_metaserver.chunks import Chunks
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.feeding import Feeding
from cloudverge_metaserver.kept import KeptSpaces
from cloudverge_metaserver.reading import Reading
from cloudverge_metaserver.servers import Heartbeat, Registration, Servers
from cloudverge_metaserver.sessions import Sessions
from cloudverge_metaserver.tickets import TicketDesk
from cloudverge_protocol.ids import Epoch, Incarnation, ServerId, SessionId
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.messages import (
    Batch,
    BatchReply,
    ChunkAllocate,
    ChunkGrant,
    Receipt,
    SessionOpen,
    SessionRef,
    SessionReply,
)
from cloudverge_protocol.operations import Create, Entry, Operation, Write
from cloudverge_protocol.receipts import make_receipt
from tests.fixtures.postgres import run_async

NOW_NS = 1_700_000_000_000_000_000
GIB = 1 << 30


@pytest.fixture(scope="session")
def meta_database(postgres) -> Iterator[str]:
    """A migrated database for all tests that leave nothing they rely on behind."""
    with postgres.database() as dsn:
        run_async(lambda: prepare_database(dsn))
        yield dsn


async def empty(database: Database) -> None:
    """Remove every row."""
    async with database.connection() as connection:
        tables = await connection.fetch(
            "select tablename from pg_tables where schemaname = 'meta' and tablename <> 'migrations'"
        )
        await connection.execute(";".join(f'delete from meta."{table[0]}"' for table in tables))


def identity(space: int = 1, user: int = 1, device: int = 1, role: str = "owner", **more) -> Identity:
    """A verified caller."""
    return Identity(
        str(user), f"user{user}", device, f"laptop {device}", space, role, more.pop("mep", 1), **more
    )


@dataclass
class Mount:
    """A session as a mount would hold it: it numbers its entries and takes ids out of its range."""

    world: "World"
    who: Identity
    opened: SessionReply
    cache_id: bytes
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    ids: Iterator[int] = field(init=False)

    def __post_init__(self) -> None:
        self.ids = itertools.count(self.opened.first_id)

    @property
    def mine(self) -> tuple[SessionId, Incarnation, Epoch]:
        return self.opened.session, self.opened.incarnation, self.opened.lease_epoch

    @property
    def ref(self) -> SessionRef:
        return SessionRef(*self.mine)

    def claim(self, size_bytes: int, inodes: int) -> SessionRef:
        return SessionRef(*self.mine, size_bytes, inodes)

    def entries(self, ops: Iterable[Operation]) -> tuple[Entry, ...]:
        return tuple(Entry(self.opened.incarnation, next(self.numbers), op) for op in ops)

    async def send(self, entries: Iterable[Entry], receipts: Iterable[Receipt] = ()) -> BatchReply:
        batch = Batch(*self.mine, tuple(receipts), tuple(entries))
        return await commit_batch(self.world.database, self.world.kept, self.who, batch)

    async def do(self, *ops: Operation, receipts: Iterable[Receipt] = ()) -> BatchReply:
        return await self.send(self.entries(ops), receipts)

    async def allocate(self, count: int = 1) -> tuple[ChunkGrant, ...]:
        asked = ChunkAllocate(*self.mine, count)
        return (await self.world.chunks.allocate(self.who, asked)).grants

    def receipts(self, grant: ChunkGrant, length: int) -> tuple[Receipt, ...]:
        """Those of all servers of a chunk."""
        return tuple(self.world.receipt(place.server, grant, length) for place in grant.places)

    def create(self, parent: int, name: bytes, mode: int = 0o100644, **more) -> Create:
        return Create(parent, name, next(self.ids), next(self.ids), mode, 1000, 1000, NOW_NS, **more)

    def write(self, ino: int, grant: ChunkGrant, length: int, start: int = 0, offset: int = 0) -> Write:
        return Write(ino, (Extent(offset, length, grant.chunk, start),), offset + length, NOW_NS, NOW_NS)


@dataclass
class World:
    """The handlers over one database, and chunkservers that exist in it by name only."""

    database: Database
    sessions: Sessions
    servers: Servers
    chunks: Chunks
    reading: Reading
    feeding: Feeding
    keys: dict[int, bytes] = field(default_factory=dict)
    kept: KeptSpaces = field(default_factory=KeptSpaces)

    async def open(self, who: Identity | None = None, cache_id: bytes | None = None) -> Mount:
        who = who or identity()
        cache_id = cache_id or os.urandom(16)
        opened = await self.sessions.open(who, SessionOpen(who.space, cache_id, who.device_name))
        return Mount(self, who, opened, cache_id)

    async def add_server(self, host: str = "127.0.0.1", free: int = 100 * GIB, rack: str = "") -> ServerId:
        key = secrets.token_bytes(32)
        name = secrets.token_hex(8)
        server = await self.servers.register(
            Registration(name, host, 1000 + len(self.keys), "http://x", rack, key, free, free)
        )
        self.keys[server] = key
        return server

    async def beat(self, server: int, free: int = 100 * GIB, full: bool = False) -> None:
        await self.servers.beat(ServerId(server), Heartbeat(free, free, 0, 0, full))

    def receipt(self, server: int, grant: ChunkGrant, length: int, epoch: int | None = None) -> Receipt:
        return make_receipt(self.keys[server], server, grant.chunk, epoch or grant.epoch, length)

    async def sql(self, text: str, *arguments) -> list[asyncpg.Record]:
        async with self.database.connection() as connection:
            return await connection.fetch(text, *arguments)

    async def value(self, text: str, *arguments):
        return (await self.sql(text, *arguments))[0][0]


async def make_world(dsn: str, lease_s: float = 10.0) -> World:
    database = Database(dsn)
    await database.open()
    servers = Servers(database, 300.0)
    desk = TicketDesk(SigningKey.generate(), "c" * 32)
    return World(
        database,
        Sessions(database, lease_s, 2),
        servers,
        Chunks(database, servers, desk),
        Reading(database),
        Feeding(database),
    )


@pytest.fixture
async def world(meta_database: str, anyio_backend: str) -> AsyncIterator[World]:
    """Two chunkservers and no space yet."""
    made = await make_world(meta_database)
    await empty(made.database)
    for _ in range(2):
        await made.add_server()
    yield made
    await made.database.close()


@pytest.fixture
async def mount(world: World) -> Mount:
    """The active mount of space 1."""
    return await world.open()


@pytest.fixture
def make_identity():
    """``identity``, for tests that make callers."""
    return identity


@pytest.fixture(scope="session")
def make_world_on():
    """A coroutine function: an empty world with two chunkservers on a database."""

    async def make(dsn: str) -> World:
        made = await make_world(dsn)
        await empty(made.database)
        for _ in range(2):
            await made.add_server()
        return made

    return make
