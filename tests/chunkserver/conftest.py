"""A cluster of real chunkservers in this process, with the keys of its auth and metaserver in the test's hand."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from cloudverge_auth.keys import SigningKey
from cloudverge_auth.tokens import (
    ChunkTicket,
    Identity,
    ServerTicket,
    sign_chunk,
    sign_identity,
    sign_server,
)
from cloudverge_chunkserver.capacity import Capacity
from cloudverge_chunkserver.damage import DamageList
from cloudverge_chunkserver.home import Membership
from cloudverge_chunkserver.memdisk import MemDisk
from cloudverge_chunkserver.server import ChunkServer
from cloudverge_chunkserver.sidecar import Header
from cloudverge_chunkserver.store import ChunkStore
from cloudverge_protocol.checksum import piece_crcs
from cloudverge_protocol.ids import CHUNK_BYTES, PROTOCOL_VERSION
from cloudverge_protocol.messages import (
    Append,
    AppendReply,
    FrameType,
    Hello,
    Message,
    Place,
    Read,
    ReadReply,
    ReplicaSeal,
)
from cloudverge_wire.frameclient import FrameClient

CLUSTER = "c" * 32
SPACE = 7


class Cluster:
    """Signs what auth and the metaserver would sign, and starts chunkservers that trust it."""

    space = SPACE

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = CLUSTER
        self.auth, self.meta = SigningKey.generate(), SigningKey.generate()
        self.servers: dict[int, ChunkServer] = {}
        self._clients: list[FrameClient] = []

    async def start(self, number: int, **options: object) -> ChunkServer:
        """Start (again) server ``number`` on its own folder."""
        server = ChunkServer(self.folder / f"chunkserver-{number}", **options)
        ticket = sign_server(self.meta, CLUSTER, ServerTicket(f"chunkserver:{number}"), time.time())
        member = Membership(
            number, CLUSTER, "h" * 32, self.auth.ring().to_public(), self.meta.ring().to_public()
        )
        server.home.join(member)
        server.trust(member, ticket)
        await server.listen("127.0.0.1", 0)
        self.servers[number] = server
        return server

    async def stop(self, number: int) -> None:
        await self.servers.pop(number).close()

    async def close(self) -> None:
        for client in self._clients:
            client.close()
        for number in list(self.servers):
            await self.stop(number)

    def place(self, number: int) -> Place:
        return Place(number, "127.0.0.1", self.servers[number].port)

    def identity(self, space: int = SPACE) -> str:
        claims = Identity("1", "ann", 1, "laptop", space, "owner", 1)
        return sign_identity(self.auth, CLUSTER, claims, time.time())

    def ticket(self, right: str, chunk: int = 0, *, now_s: float | None = None, **claims: object) -> str:
        """A chunk ticket; ``epoch`` 1 and the full limit unless told otherwise."""
        fields = {"space": SPACE, "epoch": 1, "limit": CHUNK_BYTES} | claims
        signed = ChunkTicket(right, chunk=chunk, **fields)
        return sign_chunk(self.meta, CLUSTER, signed, time.time() if now_s is None else now_s)

    def entry(self, number: int, **claims: object) -> str:
        """What a mount shows to server ``number`` when it says HELLO."""
        return self.ticket("read", servers=(number,), **claims)

    async def client(self, number: int, token: str | None = None) -> "Client":
        """A mount's connection to server ``number``."""
        hello = Hello(PROTOCOL_VERSION, self.entry(number) if token is None else token, CLUSTER)
        raw = await FrameClient.connect("127.0.0.1", self.servers[number].port, lambda: hello)
        return self.client_on(raw)

    def client_on(self, raw: FrameClient) -> "Client":
        """The same, on a connection that stands already."""
        self._clients.append(raw)
        return Client(self, raw)


class Client:
    """Calls of a mount or a metaserver, with the tickets they would have."""

    def __init__(self, cluster: Cluster, raw: FrameClient) -> None:
        self.cluster = cluster
        self.raw = raw

    async def call(self, kind: FrameType, message: Message, body: Sequence[bytes] = ()) -> Message:
        reply, _ = await self.raw.call(kind, message, body)
        return reply

    def append_message(
        self,
        chunk: int,
        offset: int,
        data: bytes,
        *,
        sync: bool = False,
        onward: tuple[Place, ...] = (),
        ticket: str | None = None,
        epoch: int = 1,
        crcs: tuple[int, ...] | None = None,
    ) -> Append:
        ticket = self.cluster.ticket("append", chunk, epoch=epoch) if ticket is None else ticket
        crcs = tuple(piece_crcs(data, offset)) if crcs is None else crcs
        return Append(ticket, chunk, epoch, offset, crcs, sync, onward)

    async def append(self, chunk: int, offset: int, data: bytes, **options: object) -> AppendReply:
        message = self.append_message(chunk, offset, data, **options)
        reply = await self.call(FrameType.APPEND, message, (data,))
        assert isinstance(reply, AppendReply)
        return reply

    async def read(
        self, chunk: int, offset: int, length: int, *, ticket: str | None = None
    ) -> tuple[ReadReply, bytes]:
        ticket = self.cluster.ticket("read") if ticket is None else ticket
        reply, body = await self.raw.call(FrameType.READ, Read(ticket, chunk, offset, length))
        assert isinstance(reply, ReadReply)
        return reply, bytes(body)

    async def seal(self, chunk: int, length: int = -1, *, epoch: int = 2) -> Message:
        ticket = self.cluster.ticket("control", space=0, epoch=0, limit=0)
        return await self.call(FrameType.REPLICA_SEAL, ReplicaSeal(ticket, chunk, epoch, length))


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """No server runs yet: ``start`` them."""
    made = Cluster(tmp_path)
    yield made
    await made.close()


@pytest.fixture
def open_store() -> Callable[..., ChunkStore]:
    """Opens a store on a memory disk, as a start of the server would."""

    def opened(disk: MemDisk, cap_bytes: int = 0, reserve_bytes: int = 0) -> ChunkStore:
        store = ChunkStore(disk, Capacity(cap_bytes, reserve_bytes=reserve_bytes), DamageList())
        store.load()
        return store

    return opened


class StoreWriter:
    """Appends to a store as one writer would."""

    def __init__(self, store: ChunkStore) -> None:
        self.store = store

    def right(
        self, chunk: int = 1, *, space: int = SPACE, epoch: int = 1, limit: int = CHUNK_BYTES
    ) -> Header:
        return Header(chunk, space, epoch, limit)

    def append(self, data: bytes, offset: int, right: Header | None = None) -> int:
        prepared = self.store.prepare(right or self.right(), offset, data, tuple(piece_crcs(data, offset)))
        return self.store.commit(prepared).length


@pytest.fixture
def writer_of() -> Callable[[ChunkStore], StoreWriter]:
    """A writer for a store."""
    return StoreWriter
