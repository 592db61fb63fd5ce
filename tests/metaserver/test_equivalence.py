"""Batches on PostgreSQL come to the same namespace as the rules over plain dictionaries, whatever is done.

Hypothesis draws operations over a handful of names and files, wrong ones among them, and cuts them into batches
at random, sometimes sending a batch twice. After each batch every row in the database is compared with the model.
"""

import asyncio

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudverge_metaserver.packing import unpack_extents
from cloudverge_protocol import rules
from cloudverge_protocol.errors import Refused
from cloudverge_protocol.ids import REGION_BYTES
from cloudverge_protocol.inodes import Dentry, Extent, Inode
from cloudverge_protocol.memoryset import MemorySet
from cloudverge_protocol.operations import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    CloneRange,
    Create,
    Link,
    PunchHole,
    Reap,
    Removexattr,
    Rename,
    Rmdir,
    Setattr,
    Setxattr,
    Truncate,
    Unlink,
    Write,
)

INODES = 12  # how many files and folders there can be; the first is the root
DURABLE = 1_000_000
names = st.sampled_from([b"a", b"b", b"c", b"\xff"])
which = st.integers(0, INODES - 1)
sizes = st.sampled_from([0, 1, 1000, 70_000, REGION_BYTES - 500, REGION_BYTES + 500, 3 * REGION_BYTES])
times = st.integers(1, 1000)
modes = st.sampled_from([0o100644, 0o40755, 0o42755, 0o10644])
keep = st.booleans()

steps = st.one_of(
    st.tuples(st.just("create"), which, names | st.just(b""), st.integers(1, INODES - 1), modes, times),
    st.tuples(st.just("link"), which, which, names, times),
    st.tuples(st.just("unlink"), which, names, which, keep, times),
    st.tuples(st.just("rmdir"), which, names, which, keep, times),
    st.tuples(
        st.just("rename"), which, names, which, names, st.sampled_from([0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE]),
        keep, times,
    ),
    st.tuples(st.just("setattr"), which, times, st.none() | st.integers(0, 0o7777)),
    st.tuples(st.just("setxattr"), which, names, st.binary(max_size=3), st.integers(0, 2), times),
    st.tuples(st.just("removexattr"), which, names, times),
    st.tuples(st.just("write"), which, st.lists(st.tuples(sizes, st.integers(1, 900)), max_size=3), sizes, times),
    st.tuples(st.just("truncate"), which, sizes, times),
    st.tuples(st.just("punch"), which, sizes, st.sampled_from([1, 800, 70_000, 2 * REGION_BYTES]), times),
    st.tuples(st.just("clone"), which, sizes, st.integers(1, 2000), which, sizes, times),
    st.tuples(st.just("reap"), which),
)  # fmt: skip


class Maker:
    """Turns drawn steps into operations, knowing the model so that most of them make sense."""

    def __init__(self, model: MemorySet, first_id: int, chunk: int) -> None:
        self.model, self.chunk = model, chunk
        self.inos = [1, *range(first_id, first_id + INODES - 1)]
        self.next_dentry = first_id + INODES
        self.position = 0

    def dentry(self) -> int:
        self.next_dentry += 1
        return self.next_dentry

    def there(self, parent: int, name: bytes, otherwise: int) -> int:
        found = self.model.dentry(self.inos[parent], name)
        return found.ino if found is not None else otherwise

    def make(self, step):
        kind, *rest = step
        ino = self.inos[rest[0]]
        match kind:
            case "create":
                _, name, child, mode, now = rest
                dentry = self.dentry() if name else 0
                return Create(ino, name, self.inos[child], dentry, mode, 5, 6, now)
            case "link":
                return Link(ino, self.inos[rest[1]], rest[2], self.dentry(), rest[3])
            case "unlink" | "rmdir":
                target = self.there(rest[0], rest[1], self.inos[rest[2]])
                return (Unlink if kind == "unlink" else Rmdir)(ino, rest[1], target, rest[3], rest[4])
            case "rename":
                parent, name, place, new_name, flags, kept, now = rest
                source, target = self.there(parent, name, 1), self.there(place, new_name, 0)
                ids = (self.dentry(), self.dentry())
                return Rename(ino, name, self.inos[place], new_name, source, target, flags, kept, *ids, now)
            case "setattr":
                return Setattr(ino, rest[1], mode=rest[2], mtime_ns=rest[1])
            case "setxattr":
                return Setxattr(ino, *rest[1:])
            case "removexattr":
                return Removexattr(ino, *rest[1:])
            case "write":
                return self.write(ino, rest[1], rest[2], rest[3])
            case "truncate":
                return Truncate(ino, rest[1], rest[2])
            case "punch":
                return PunchHole(ino, rest[1], rest[2], rest[3])
            case "clone":
                return CloneRange(ino, rest[1], rest[2], self.inos[rest[3]], rest[4], rest[5])
            case _:
                return Reap(ino)

    def write(self, ino, pieces, size, now):
        extents, end = [], 0
        for offset, length in sorted(pieces):
            start = max(offset, end)
            extents.append(Extent(start, length, self.chunk, self.position))
            self.position = (self.position + length) % (DURABLE - 1000)
            end = start + length
        return Write(ino, tuple(extents), max(size, end), now, now)


async def stored(connection: asyncpg.Connection, space: int) -> MemorySet:
    """What the database holds, as a set."""
    found = MemorySet()
    for r in await connection.fetch(
        """select ino, mode, uid, gid, nlink, size, atime_ns, mtime_ns, ctime_ns, btime_ns, rdev, parent, entries,
        target from meta.inodes where space = $1""",
        space,
    ):
        found.put_inode(Inode(*r))
    for r in await connection.fetch(
        "select parent, name, ino, kind, dentry from meta.dentries where space = $1", space
    ):
        found.put_dentry(Dentry(*r))
    for ino, region, packed in await connection.fetch(
        "select ino, region, packed from meta.extents where space = $1", space
    ):
        found.put_extents(ino, region, unpack_extents(packed))
    for r in await connection.fetch("select ino, name, value from meta.xattrs where space = $1", space):
        found.put_xattr(*r)
    for r in await connection.fetch("select ino from meta.orphans where space = $1", space):
        found.add_orphan(r[0])
    return found


async def play(world, make_identity, space, drawn, cuts, twice):
    for server in world.keys:
        await world.beat(server)
    mount = await world.open(make_identity(space=space))
    (grant,) = await mount.allocate()
    await mount.do(receipts=mount.receipts(grant, DURABLE))
    async with world.database.connection() as connection:
        model = await stored(connection, space)
    maker = Maker(model, mount.opened.first_id, grant.chunk)
    waiting, seq = [], 0
    for number, step in enumerate([*drawn, None]):
        if step is not None:
            entry = mount.entries([maker.make(step)])[0]
            waiting.append(entry)
            expected = None
            try:
                rules.apply(entry.op, model)
                seq += 1
            except Refused as error:
                expected = error
            if expected is None and number not in cuts:
                continue
        for _ in range(1 + (number in twice)):
            reply = await mount.send(waiting)
        if step is not None and expected is not None:
            assert (reply.refused_number, reply.refused_code) == (waiting[-1].number, expected.code)
            assert reply.refused_message == expected.message
        else:
            assert reply.refused_code == 0, reply.refused_message
        assert reply.seq == seq
        waiting = []
        await compare(world, space, model, reply)


async def compare(world, space, model, reply):
    async with world.database.connection() as connection:
        assert await stored(connection, space) == model
        used = await connection.fetchrow(
            "select used_bytes, used_inodes from meta.spaces where space = $1", space
        )
        live = await connection.fetchval(
            "select sum(live_bytes)::bigint from meta.chunks where space = $1", space
        )
    assert tuple(used) == (model.used_bytes, model.used_inodes) == (reply.used_bytes, reply.used_inodes)
    assert live == model.used_bytes


@pytest.fixture
def runner(meta_database, make_world_on):
    """One loop and one world for all examples."""
    loop = asyncio.new_event_loop()
    world = loop.run_until_complete(make_world_on(meta_database))
    yield loop, world
    loop.run_until_complete(world.database.close())
    loop.close()


_space = iter(range(1000, 10**9))


@settings(suppress_health_check=[*HealthCheck], max_examples=settings().max_examples, deadline=None)
@given(
    drawn=st.lists(steps, min_size=5, max_size=40),
    cuts=st.sets(st.integers(0, 40), max_size=10),
    twice=st.sets(st.integers(0, 40), max_size=10),
)
def test_batches_and_the_rules_alone_come_to_the_same_rows(runner, make_identity, drawn, cuts, twice):
    loop, world = runner
    loop.run_until_complete(play(world, make_identity, next(_space), drawn, cuts, twice))
