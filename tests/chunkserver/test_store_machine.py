"""Any order of appends, syncs, seals, restarts and power losses, against what a writer may rely on."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cloudverge_chunkserver.capacity import Capacity
from cloudverge_chunkserver.chunks import OpenChunk, SealedChunk
from cloudverge_chunkserver.commits import Commits, Workers
from cloudverge_chunkserver.damage import DamageList
from cloudverge_chunkserver.memdisk import MemDisk
from cloudverge_chunkserver.reading import Span
from cloudverge_chunkserver.replicas import Replicas
from cloudverge_chunkserver.sidecar import Header
from cloudverge_chunkserver.store import ChunkStore
from cloudverge_protocol.checksum import piece_crcs
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.ids import BLOCK_BYTES

CHUNK, SPACE = 1, 7
LIMIT = 3 * BLOCK_BYTES
BYTES = bytes((i * 31 + i // 251) % 256 for i in range(LIMIT + 1000))
sizes = st.one_of(st.integers(0, 300), st.integers(0, LIMIT), st.just(BLOCK_BYTES))


class OneChunk(RuleBasedStateMachine):
    """One chunk, one writer who may repeat itself; the model is three numbers."""

    @initialize()
    def begin(self) -> None:
        self.workers = Workers(1)
        self.disk = MemDisk()
        self.length = self.durable = 0  # acknowledged; acknowledged with a sync
        self.sealed: int | None = None
        self.closed = False
        self.start()

    def teardown(self) -> None:
        if hasattr(self, "workers"):
            self.workers.close()

    def start(self) -> None:
        self.store = ChunkStore(self.disk, Capacity(0, reserve_bytes=0), DamageList())
        self.store.load()
        self.commits = Commits(self.disk, self.workers)
        self.replicas = Replicas(self.store, self.commits, self.workers)

    def append(self, offset: int, data: bytes, *, sync: bool) -> Code | None:
        right = Header(CHUNK, SPACE, 1, LIMIT)
        try:
            chunk = self.store.commit(
                self.store.prepare(right, offset, data, tuple(piece_crcs(data, offset)))
            )
        except CloudVergeError as error:
            return error.code
        self.length = chunk.length
        if sync:
            assert self.commits.durable_at_once(chunk, chunk.length)
            self.durable = chunk.durable
        return None

    @rule(back=st.integers(0, LIMIT), size=sizes, sync=st.booleans())
    def append_what_follows(self, back: int, size: int, sync: bool) -> None:
        offset = max(0, self.length - back)
        before = self.length
        code = self.append(offset, BYTES[offset : offset + size], sync=sync)
        if self.sealed is not None or self.closed:
            assert code in (Code.SEALED, Code.FENCED, Code.CHUNK_FULL)
        elif offset + size > LIMIT:
            assert code == Code.CHUNK_FULL
        else:
            assert code is None
            assert self.length == max(before, offset + size)

    @rule(ahead=st.integers(1, 1000))
    def leave_a_gap(self, ahead: int) -> None:
        assert self.append(self.length + ahead, b"x", sync=False) in (
            Code.GAP, Code.SEALED, Code.FENCED, Code.CHUNK_FULL,
        )  # fmt: skip

    @rule(at=st.floats(0, 0.999))
    def contradict(self, at: float) -> None:
        if not self.length:
            return
        offset = int(at * self.length)
        code = self.append(offset, bytes([BYTES[offset] ^ 0xFF]), sync=True)
        assert code in (Code.CONFLICT, Code.SEALED, Code.FENCED)
        self.closed = True

    @rule()
    def stop_and_start(self) -> None:
        self.start()

    @rule()
    def lose_power(self) -> None:
        self.disk.crash()
        self.start()
        found = self.store.find(CHUNK)
        kept = found.length if isinstance(found, OpenChunk | SealedChunk) else 0
        assert self.durable <= kept <= self.length
        self.length = kept
        self.closed = isinstance(found, OpenChunk) and bool(found.closed)  # an unsynced fence may be lost

    @rule(cut=st.integers(0, 70_000))
    def seal(self, cut: int) -> None:
        if self.sealed is not None or self.store.find(CHUNK) is None:
            return
        length = max(self.durable, self.length - cut)
        status = asyncio.run(self.replicas.seal(CHUNK, 2, length))
        assert (status.state, status.length) == ("SEALED", length)
        self.sealed = self.length = self.durable = length

    @invariant()
    def what_is_acknowledged_is_readable_and_right(self) -> None:
        if not hasattr(self, "store"):
            return
        found = self.store.find(CHUNK)
        if found is None:
            assert self.length == 0
            return
        view = self.store.view(CHUNK, SPACE)
        assert view.length == self.length
        assert bytes(self.store.read_checked(CHUNK, view, Span(0, view.length))) == BYTES[: self.length]


TestOneChunk = OneChunk.TestCase
TestOneChunk.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
