"""A client that asks for more than is decent: others are answered in time, and the metaserver's memory stays bounded.

Each flood is right in its form, made by a signed-in user in his own space. Meanwhile a neighbour sends small batches,
lists his folder and renews his lease; none of it may be refused, or take longer than ``PATIENCE_S``.
"""

import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import pytest

from cloudverge_protocol import codec
from cloudverge_protocol import messages as m
from cloudverge_protocol.errors import Code
from cloudverge_protocol.ids import CHUNK_BYTES, EntryNumber, ServerId
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.messages import FrameType, Message
from cloudverge_protocol.operations import CloneRange, Entry, Operation, Rename, Setattr, Setxattr
from tests.fixtures.accounts import Person, settle
from tests.fixtures.cluster import Cluster
from tests.fixtures.flooding import Line, Measured, measured
from tests.fixtures.liars import Liar, liar_at_home

PATIENCE_S = 2.0
MEMORY_BYTES = 300 << 20
BATCH = 5_000
FOLDER, FILE = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644
HIGH = 1_000_000  # entry numbers beyond those of the preparations
REGION = CHUNK_BYTES


@pytest.fixture(scope="module")
def neighbour(lasting_cluster: Cluster) -> Person:
    return settle(lasting_cluster, "carol")


@pytest.fixture
def liar(cluster: Cluster, neighbour: Person) -> Iterator[Liar]:
    made = liar_at_home(cluster, neighbour)
    yield made
    made.close()


def numbered(liar: Liar, ops: Iterable[Operation], first: int) -> m.Batch:
    """A batch whose entries have the numbers from ``first`` on."""
    incarnation = liar.opened.incarnation
    entries = tuple(Entry(incarnation, EntryNumber(number), op) for number, op in enumerate(ops, first))
    return m.Batch(*liar.mine, (), entries)


def done(liar: Liar, ops: Iterable[Operation], first: int) -> None:
    """The same, committed before the flood."""
    batch = numbered(liar, ops, first)
    reply = liar.must(FrameType.BATCH, batch)
    assert isinstance(reply, m.BatchReply)
    assert len(reply.seqs) == len(batch.entries), reply


def ids(liar: Liar, count: int) -> int:
    """The first of so many new ids."""
    reply = liar.must(FrameType.IDS, m.Ids(*liar.mine, count))
    assert isinstance(reply, m.IdsReply)
    return reply.first


def in_pieces(liar: Liar, count: int) -> None:
    """The liar's file gets so many extents of a byte."""
    extents = (Extent(2 * n, 1, liar.chunk.chunk, n % 5000) for n in range(count))
    done(liar, [liar.write(*extents)], 1000)


def nested(liar: Liar, depth: int) -> int:
    """So many folders in each other; the innermost one."""
    first, parent = ids(liar, 2 * depth), 1
    ops = []
    for ino in range(first, first + 2 * depth, 2):
        ops.append(liar.make(b"c", parent, FOLDER, ino=ino, dentry=ino + 1))
        parent = ino
    for start in range(0, depth, BATCH):
        done(liar, ops[start : start + BATCH], 1000 + start)
    return parent


def moves(liar: Liar, place: int) -> Iterator[Operation]:
    """A folder, moved there and back for ever."""
    made = liar.make(b"moved", mode=FOLDER)
    yield made
    there, back = (1, b"moved"), (place, b"moved")
    while True:
        yield Rename(*there, *back, made.ino, 0, 0, False, liar.new(), 0, 1)
        there, back = back, there


def _batches(of: Callable[[Liar], Iterable[Operation]], count: int, size: int, lines: int):
    def messages(liar: Liar) -> list[list[Message]]:
        ops = of(liar)
        return [
            [numbered(liar, _take(ops, size), HIGH * (line + 1) + size * n) for n in range(count)]
            for line in range(lines)
        ]

    return messages


def _take(ops: Iterable[Operation], count: int) -> list[Operation]:
    source = iter(ops)
    return [op for op, _ in zip(source, range(count), strict=False)]


def touches(liar: Liar) -> list[Operation]:
    return [Setattr(liar.file, 1, mode=0o600)] * BATCH


def clones(liar: Liar) -> list[Operation]:
    in_pieces(liar, 60_000)
    return [CloneRange(liar.file, 0, 119_999, liar.file, (n + 1) * REGION, 1) for n in range(300)]


def deep_moves(liar: Liar) -> Iterator[Operation]:
    return moves(liar, nested(liar, 8_000))


def attributes(liar: Liar) -> list[Operation]:
    for first in range(2_000, 12_000, 100):
        done(liar, [Setxattr(liar.file, b"%d" % (first + n), b"v", 0, 1) for n in range(90)], first)
    return [Setxattr(liar.file, b"a", b"v", 0, 1)] * BATCH


def overwriting(liar: Liar) -> list[Operation]:
    """In a space that is full, where each byte is counted."""
    in_pieces(liar, 60_000)
    full = "update meta.spaces set quota_bytes = used_bytes where space = $1"
    liar.cluster.sql(full, liar.space)
    return [liar.write(Extent(0, 1, liar.chunk.chunk, 0), size=1 << 20)] * BATCH


def loads(liar: Liar) -> list[list[Message]]:
    keys = tuple(range(1, 10_001))
    names, regions = tuple((1, b"%d" % n) for n in keys), tuple((n, 0) for n in keys)
    return [[m.Load(liar.space, keys, names, regions, keys)] * 8] * 4


def trees(liar: Liar) -> list[list[Message]]:
    first = ids(liar, 2 * BATCH)
    made = (liar.make(b"%d" % ino, ino=ino, dentry=ino + 1) for ino in range(first, first + 2 * BATCH, 2))
    done(liar, made, 1000)
    return [[m.Tree(liar.space, 1, budget=1 << 30)] * 10] * 4


def junk(kind: str) -> Callable[[Liar], list[list[Message]]]:
    """Requests that are about as long as a frame can be."""

    def messages(liar: Liar) -> list[list[Message]]:
        chunk, mine = liar.chunk.chunk, liar.mine
        one: Message = {
            "receipts": m.Batch(*mine, (m.Receipt(ServerId(1), chunk, 1, 1, b""),) * 200_000, ()),
            "extents": numbered(liar, [liar.write(*(Extent(1, 1, chunk, 1),) * 250_000)], HIGH),
            "entries": numbered(liar, [Setattr(1, 1)] * 80_000, HIGH),
            "servers": m.ChunkAllocate(*mine, 16, tuple(range(390_000))),
        }[kind]
        return [[one] * 12] * 3

    return messages


# what is sent on each line, all at once; the codes that may come back
FLOODS: dict[str, tuple[Callable[[Liar], list[list[Message]]], set[int]]] = {
    "long batches": (_batches(touches, 8, BATCH, 5), {0}),
    "many short batches": (_batches(touches, 200, 10, 6), {0}),
    "many clones of many pieces": (_batches(clones, 3, 300, 1), {0}),
    "many moves at a great depth": (
        _batches(deep_moves, 3, 3_000, 1),
        {0, Code.NOT_FOUND, Code.STALE, Code.EXISTS},
    ),
    "many attributes of one file": (_batches(attributes, 3, BATCH, 1), {0}),
    "overwriting in a full space": (_batches(overwriting, 3, BATCH, 1), {0}),
    "large loads": (loads, {0}),
    "large listings": (trees, {0}),
    "receipts without end": (junk("receipts"), {Code.BAD_REQUEST}),
    "extents without end": (junk("extents"), {Code.BAD_REQUEST}),
    "entries without end": (junk("entries"), {Code.BAD_REQUEST}),
    "servers without end": (junk("servers"), {Code.BAD_REQUEST}),
}


def encoded(messages: list[Message]) -> tuple[FrameType, list[bytes]]:
    """The frames of one line; done before the flood, which is to cost the server and not the test."""
    (kind,) = {kind for kind, request in m.REQUESTS.items() if type(messages[0]) is request}
    return kind, [codec.encode_request(kind, number, each) for number, each in enumerate(messages, 1)]


def pour(liar: Liar, lines: list[tuple[FrameType, list[bytes]]]) -> Counter[int]:
    """Everything at once on so many connections; the codes of the answers."""
    codes: Counter[int] = Counter()

    def one(kind: FrameType, frames: list[bytes]) -> None:
        line = Line(liar.cluster, liar.person.identity)
        for reply in line.pour(kind, frames):
            codes[getattr(reply, "code", getattr(reply, "refused_code", 0))] += 1
        line.close()

    threads = [threading.Thread(target=one, args=line) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes


def assert_harmless(found: Measured) -> None:
    """Nobody waited too long, and the metaserver is as small as before."""
    print(found)
    assert found.longest_s < PATIENCE_S
    assert found.grown_bytes < MEMORY_BYTES


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_hurts_nobody_but_its_sender(cluster, liar, neighbour, name):
    make, expected = FLOODS[name]
    lines = [encoded(messages) for messages in make(liar)]
    codes: Counter[int] = Counter()
    found = measured(cluster, neighbour, lambda: codes.update(pour(liar, lines)))
    assert sum(codes.values()) == sum(len(frames) for _, frames in lines)
    assert set(codes) <= expected
    assert_harmless(found)


@pytest.mark.parametrize(
    "count", [200_000, pytest.param(10_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_a_journal_without_end_is_taken_while_others_are_served(cluster, liar, neighbour, count):
    def flood() -> None:
        line = Line(cluster, liar.person.identity)
        for first in range(1000, 1000 + count, BATCH):
            reply = line.ask(FrameType.BATCH, numbered(liar, some_of_each(liar), first))
            assert isinstance(reply, m.BatchReply), reply
            assert len(reply.seqs) == BATCH, reply
        line.close()

    found = measured(cluster, neighbour, flood)
    (row,) = cluster.sql("select seq from meta.spaces where space = $1", liar.space)
    assert row["seq"] >= count
    assert_harmless(found)


def some_of_each(liar: Liar) -> Iterator[Operation]:
    """A batch of new files, each touched a few times."""
    first = ids(liar, BATCH // 5)
    for ino in range(first, first + BATCH // 5, 2):
        yield liar.make(b"f%d" % ino, mode=FILE, ino=ino, dentry=ino + 1)
        for now_ns in range(9):
            yield Setattr(ino, now_ns, mode=0o600 + now_ns)
