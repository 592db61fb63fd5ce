"""A small cluster inside the test's trio loop, spoken to over real sockets: for faults a test can aim exactly.

The real servers are used in tests/faults; here a server is a dictionary of chunks and a few knobs.
"""

import itertools
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cloudverge_mount.content import Budgets, Content
from cloudverge_mount.link import Link
from cloudverge_mount.metaclient import MetaClient
from cloudverge_protocol import codec, receipts
from cloudverge_protocol import messages as m
from cloudverge_protocol.checksum import piece_crcs, pieces_match
from cloudverge_protocol.errors import CloudVergeError, Code, make_error
from cloudverge_protocol.extents import clip, cut, meeting, splice
from cloudverge_protocol.frames import FrameReader
from cloudverge_protocol.ids import BLOCK_BYTES, PROTOCOL_VERSION
from cloudverge_protocol.messages import FrameType

KEY = b"k" * 32


class FrameServer:
    """Frames on a socket: each request is handled in a task of its own, but begun in order of arrival."""

    def __init__(self, name):
        self.name = name
        self.port = 0
        self.served = []  # (kind, message)
        self.unbelieved = set()  # tokens that a HELLO must not show
        self.delay_s = 0.0
        self._listener = None
        self._scope = None
        self._nursery = None

    async def start(self, nursery):
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        self._nursery = nursery
        self._scope = trio.CancelScope()
        nursery.start_soon(self._serve, listeners)

    async def _serve(self, listeners):
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    for listener in listeners:
                        nursery.start_soon(self._accept, listener, nursery)
            finally:
                for listener in listeners:
                    listener.socket.close()

    async def _accept(self, listener, nursery):
        while True:
            nursery.start_soon(self._converse, await listener.accept())

    async def stop(self):
        self._scope.cancel()
        await trio.sleep(0.01)

    async def _converse(self, stream):
        reader = FrameReader()
        lock = trio.Lock()
        async with stream, trio.open_nursery() as nursery:
            try:
                while data := await stream.receive_some(1 << 20):
                    for frame in reader.feed(data):
                        kind, message = codec.decode_request(frame)
                        self.served.append((kind, message))
                        answer = self._try(kind, message, frame.body)
                        nursery.start_soon(self._answer, stream, lock, frame, answer)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

    def _try(self, kind, message, body):
        try:
            if kind is FrameType.HELLO:
                if message.token in self.unbelieved:
                    raise make_error(Code.UNAUTHORIZED, "this is no valid ticket")
                return m.HelloReply(PROTOCOL_VERSION, "c", "h", self.name, 0), b""
            return self.handle(kind, message, body)
        except CloudVergeError as error:
            return m.ErrorReply(int(error.code), error.message), b""

    async def _answer(self, stream, lock, frame, answer):
        if self.delay_s and frame.type != FrameType.HELLO:
            await trio.sleep(self.delay_s)
        message, body = answer
        if isinstance(message, m.ErrorReply):
            head = codec.encode_error(frame.type, frame.request_id, message)
        else:
            head = codec.encode_reply(frame.type, frame.request_id, message, len(body))
        async with lock:
            try:
                await stream.send_all(head + bytes(body))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass


class FakeChunkserver(FrameServer):
    def __init__(self, server, cluster):
        super().__init__(f"chunkserver:{server}")
        self.server = server
        self.cluster = cluster
        self.chunks = {}
        self.durable = {}
        self.refuse = None  # a Code for every append
        self.fail_reads = []  # errors for the next reads with range tickets
        self.rotten = set()  # chunks whose reads come with a flipped byte
        self.bad_bytes = set()  # (chunk, offset) of bytes that come flipped
        self.room = 1 << 40

    def handle(self, kind, message, body):
        if kind is FrameType.APPEND:
            return self.append(message, bytes(body)), b""
        assert kind is FrameType.READ
        return self.read(message)

    def append(self, message, data):
        if self.refuse is not None:
            raise make_error(self.refuse, f"server {self.server} refuses")
        assert message.ticket.startswith(f"append-{message.chunk}")
        assert pieces_match(data, message.offset, list(message.crcs))
        chunk = self.chunks.setdefault(message.chunk, bytearray())
        if message.offset > len(chunk):
            raise make_error(Code.GAP, f"{message.offset} > {len(chunk)}")
        assert chunk[message.offset : message.offset + len(data)] in (b"", data)
        if message.chunk in self.cluster.sealed:
            raise make_error(Code.SEALED, "sealed")
        if sum(map(len, self.chunks.values())) + len(data) > self.room:
            raise make_error(Code.NO_SPACE, f"server {self.server} is full")
        chunk[message.offset :] = data
        end = len(chunk)
        mine = ()
        if message.sync:
            self.durable[message.chunk] = end
            mine = (receipts.make_receipt(KEY, self.server, message.chunk, message.epoch, end),)
        if not message.onward:
            return m.AppendReply(end, mine)
        onward = self.cluster.chunkservers[message.onward[0].server]
        onward_message = m.Append(
            message.ticket,
            message.chunk,
            message.epoch,
            message.offset,
            message.crcs,
            message.sync,
            message.onward[1:],
        )
        if onward.is_down:
            return m.AppendReply(end, mine, onward.server, int(Code.UNREACHABLE), "down the chain")
        try:
            rest = onward.append(onward_message, data)
        except CloudVergeError as error:
            return m.AppendReply(end, mine, onward.server, int(error.code), error.message)
        return m.AppendReply(rest.length, mine + rest.receipts)

    def read(self, message):
        if message.ticket.startswith("range"):
            return self.read_exactly(message)
        assert message.ticket.startswith("read")
        if message.chunk not in self.chunks:
            raise make_error(Code.NO_CHUNK, "no such chunk here")
        start = message.offset // BLOCK_BYTES * BLOCK_BYTES
        end = message.offset + message.length
        end += -end % BLOCK_BYTES
        body = bytes(self.chunks[message.chunk][start:end])
        reply = m.ReadReply(start, tuple(piece_crcs(body, start)))
        if message.chunk in self.rotten:
            body = bytes([body[0] ^ 1]) + body[1:]
        for chunk, offset in self.bad_bytes:
            if chunk == message.chunk and start <= offset < start + len(body):
                body = body[: offset - start] + bytes([body[offset - start] ^ 1]) + body[offset - start + 1 :]
        return reply, body

    def read_exactly(self, message):
        if self.fail_reads:
            raise self.fail_reads.pop(0)
        _, serial, chunk, start, end = map(int, message.ticket.replace("range", "0").split("-"))
        if serial < self.cluster.serial:
            raise make_error(Code.UNAUTHORIZED, "this is no valid ticket")
        assert chunk == message.chunk
        assert start <= message.offset < message.offset + message.length <= end, "asked for others' bytes"
        if message.chunk not in self.chunks:
            raise make_error(Code.NO_CHUNK, "no such chunk here")
        body = bytes(self.chunks[message.chunk][message.offset : message.offset + message.length])
        reply = m.ReadReply(message.offset, tuple(piece_crcs(body, message.offset)))
        return reply, bytes([body[0] ^ 1]) + body[1:] if message.chunk in self.rotten else body

    @property
    def is_down(self):
        return self._scope is None or self._scope.cancel_called


class FakeMetaserver(FrameServer):
    def __init__(self, cluster):
        super().__init__("metaserver")
        self.cluster = cluster
        self.ids = itertools.count(1)
        self.limit = 64 << 20
        self.refuse_allocate = None
        self.damage_reports = []
        self.turn = 0

    def handle(self, kind, message, body):
        return getattr(self, kind.name.lower())(message), b""

    def chunk_allocate(self, message):
        if self.refuse_allocate is not None:
            raise make_error(self.refuse_allocate, "no room anywhere")
        servers = [s for s in self.cluster.chunkservers if s not in message.avoid]
        if len(servers) < 2:
            raise make_error(Code.NO_SPACE, "not enough servers")
        self.turn += 1
        first = servers[self.turn % len(servers)]
        second = servers[(self.turn + 1) % len(servers)]
        chunk = next(self.ids)
        self.cluster.grants[chunk] = (first, second)
        places = tuple(self.place(server) for server in (first, second))
        return m.ChunkGrants((m.ChunkGrant(chunk, 1, self.limit, places, f"append-{chunk}"),))

    def place(self, server):
        return m.Place(server, "127.0.0.1", self.cluster.chunkservers[server].port)

    def chunk_seal(self, message):
        lengths = [r.length for r in message.receipts]
        self.cluster.sealed[message.chunk] = min(lengths, default=0)
        return m.ChunkSealed(self.cluster.sealed[message.chunk], False)

    def chunk_locate(self, message):
        found = []
        for chunk in message.chunks:
            if chunk in self.cluster.grants:
                places = tuple(self.place(server) for server in self.cluster.grants[chunk])
                found.append(m.ChunkPlaces(chunk, chunk in self.cluster.sealed, 0, places))
        return m.ChunkLocateReply(tuple(found))

    def tickets(self, message):
        read = tuple((server, self.cluster.read_ticket) for server in message.servers)
        append = tuple((c, f"append-{c}-again") for c in message.chunks)
        return m.TicketsReply(60.0, read, append, tuple(self.range_tickets(message.spans)))

    def range_tickets(self, spans):
        runs = []  # [chunk, start, end], those that touch made one
        met = [e for span in spans for e in self.committed_in(span)]
        for chunk, start, end in sorted({(e.chunk, e.chunk_offset, e.chunk_offset + e.length) for e in met}):
            if runs and runs[-1][0] == chunk and runs[-1][2] >= start:
                runs[-1][2] = max(runs[-1][2], end)
            else:
                runs.append([chunk, start, end])
        for chunk, start, end in runs:
            places = tuple(self.place(server) for server in self.cluster.grants[chunk])
            ticket = f"range-{self.cluster.serial}-{chunk}-{start}-{end}"
            yield m.RangeTicket(chunk, start, end - start, ticket, places)

    def committed_in(self, span):
        return clip(self.cluster.committed.get(span.ino, ()), span.offset, span.offset + span.length)

    def damage(self, message):
        self.damage_reports.append(message)
        return m.Empty()


class Cluster:
    def __init__(self):
        self.sealed = {}
        self.grants = {}
        self.committed = {}  # what a confined session may read: extents by inode
        self.serial = 0  # range tickets with lower ones are not believed
        self.read_ticket = "read"
        self.chunkservers = {n: FakeChunkserver(n, self) for n in (1, 2, 3)}
        self.metaserver = FakeMetaserver(self)

    async def start(self, nursery):
        for server in [self.metaserver, *self.chunkservers.values()]:
            await server.start(nursery)

    def appends(self):
        return [
            message
            for server in self.chunkservers.values()
            for kind, message in server.served
            if kind is FrameType.APPEND
        ]


class FakeRights:
    space = 1
    session = 1
    incarnation = 1
    lease_epoch = 1
    confined = False


class Names:
    """The names side as a test wants it: sizes, extents, a journal. Checks what the bytes side promises."""

    def __init__(self, cluster, replicas=2):
        self.cluster = cluster
        self.replicas = replicas
        self.content = None
        self.size = {}  # local
        self.journaled = {}
        self.extents = {}
        self.journal = []
        self.settled = []
        self.done = []
        self.fail = None
        self.hurries = 0

    async def file_extents(self, ino, offset, length):
        return meeting(self.extents.get(ino, ()), offset, offset + length)

    def log_spill(self, record):
        self.journal.append(record)

    def enter_write(self, ino, extents, receipts_, durable_below, spilled_through):
        if self.fail is not None:
            raise self.fail
        for extent in extents:
            assert extent.chunk not in self.done
            proofs = {r.server: r for r in receipts_ if r.chunk == extent.chunk}
            assert set(proofs) == set(self.cluster.grants[extent.chunk])
            assert len(proofs) == self.replicas
            for server, proof in proofs.items():
                assert receipts.receipt_is_genuine(KEY, proof)
                assert proof.length >= extent.chunk_offset + extent.length
                held = self.cluster.chunkservers[server].durable[extent.chunk]
                assert held >= extent.chunk_offset + extent.length
            assert extent.end <= max(self.journaled_size(ino), durable_below)
        local = self.size.get(ino, 0)
        self.journaled[ino] = max(self.journaled_size(ino), min(local, durable_below))
        self.extents[ino] = splice(self.extents.get(ino, ()), extents)
        self.journal.append((ino, extents, spilled_through))
        return len(self.journal)

    def hurry(self):
        self.hurries += 1

    def content_settled(self, ino):
        self.settled.append(ino)

    def chunk_done(self, chunk):
        self.done.append(chunk)

    def journaled_size(self, ino):
        return self.journaled.get(ino, 0)

    # what programs do

    async def write(self, ino, offset, data):
        await self.content.write(ino, offset, data)
        self.size[ino] = max(self.size.get(ino, 0), offset + len(data))

    def truncate(self, ino, size):
        self.content.cut(ino, size)
        if size < self.journaled_size(ino):
            self.journaled[ino] = size
            self.extents[ino] = clip(self.extents.get(ino, ()), 0, size)
            self.journal.append(("cut", ino, size))
        self.size[ino] = size

    def punch(self, ino, start, end):
        self.extents[ino] = cut(self.extents.get(ino, ()), start, end)
        self.content.cut(ino, start, end)

    async def read(self, ino, offset=0, length=None):
        size = self.size.get(ino, 0)
        end = size if length is None else min(size, offset + length)
        return await self.content.read(ino, offset, end - offset)

    def durable_bytes(self, ino):
        """What another mount would read: extents alone, from every replica alike."""
        data = bytearray(self.journaled_size(ino))
        for extent in self.extents.get(ino, ()):
            for server in self.cluster.grants[extent.chunk]:
                chunk = self.cluster.chunkservers[server].chunks[extent.chunk]
                piece = chunk[extent.chunk_offset : extent.chunk_offset + extent.length]
                assert len(piece) == extent.length
                data[extent.offset : extent.end] = piece
        return bytes(data)


class Mount:
    """Content over the small cluster."""

    def __init__(self, cluster, names, content, rights):
        self.cluster = cluster
        self.names = names
        self.content = content
        self.rights = rights


@pytest.fixture
def open_mount(tmp_path):
    """``async with open_mount() as mount``: the pieces wired together."""

    @asynccontextmanager
    async def opened(
        budgets=None,
        cache_dir: Path | None = None,
        journal=(),
        cluster=None,
        names=None,
        confined=False,
    ):
        async with trio.open_nursery() as nursery:
            if cluster is None:
                cluster = Cluster()
                await cluster.start(nursery)

            async def hello():
                return m.Hello(PROTOCOL_VERSION, "identity")

            link = Link(lambda: ("127.0.0.1", cluster.metaserver.port), hello, nursery)
            names = names or Names(cluster)
            rights = FakeRights()
            rights.confined = confined
            small = Budgets(disk_cache_bytes=0)
            content = Content(
                MetaClient(link), rights, "c", cache_dir or tmp_path / "cache", names, budgets or small
            )
            names.content = content
            for record in journal:
                content.restore(record)
            lost = content.finish_restore()
            await nursery.start(content.run)
            mount = Mount(cluster, names, content, rights)
            mount.lost = lost
            yield mount
            nursery.cancel_scope.cancel()
        await content.aclose()

    return opened
