"""What a batch costs is bounded whatever is in it: it ends early, or is refused whole, and others do not wait."""

import pytest

from cloudverge_metaserver.applying import WORK_MAX
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.operations import CloneRange, Rename, Setattr, Setxattr, Truncate, Write

pytestmark = pytest.mark.anyio
NOW_NS = 1_700_000_000_000_000_000
PIECES = 60_000
REGION = 64 << 20


async def in_pieces(mount, name: bytes, count: int = PIECES) -> int:
    """A file of so many extents of one byte each."""
    (grant,) = await mount.allocate()
    create = mount.create(1, name)
    extents = tuple(Extent(2 * n, 1, grant.chunk, n % 100) for n in range(count))
    write = Write(create.ino, extents, 2 * count, NOW_NS, NOW_NS)
    reply = await mount.do(create, write, receipts=mount.receipts(grant, 100))
    assert not reply.refused_number, reply
    return create.ino


@pytest.fixture
async def roomy(mount, world):
    """A mount of a cluster that has servers."""
    for _ in range(2):
        await world.add_server()
    return mount


async def test_a_batch_of_many_clones_ends_before_it_is_too_much_and_goes_on_when_sent_again(roomy):
    ino = await in_pieces(roomy, b"f")
    size = 2 * PIECES
    entries = roomy.entries(CloneRange(ino, 0, size, ino, (n + 1) * REGION, NOW_NS) for n in range(20))
    sent = 0
    while sent < len(entries):
        reply = await roomy.send(entries[sent:])
        assert not reply.refused_number
        assert 0 < len(reply.seqs) <= WORK_MAX // (4 * PIECES) + 2
        sent += len(reply.seqs)
    assert reply.used_bytes == 21 * PIECES


async def test_many_moves_at_a_great_depth_end_early_too(roomy):
    depth = 6_000
    chain = [roomy.create(1, b"c", 0o40755)]
    while len(chain) < depth:
        chain.append(roomy.create(chain[-1].ino, b"c", 0o40755))
    moved = roomy.create(1, b"x", 0o40755)
    await roomy.do(*chain[:3000])
    await roomy.do(*chain[3000:], moved)
    there, back = (1, b"x"), (chain[-1].ino, b"x")
    moves = [
        Rename(
            *(there, back)[n % 2], *(back, there)[n % 2], moved.ino, 0, 0, False, chain[n].dentry, 0, NOW_NS
        )
        for n in range(1000)
    ]
    reply = await roomy.do(*moves)
    assert not reply.refused_number
    assert 0 < len(reply.seqs) < 400


async def test_many_attributes_of_an_inode_count(roomy):
    created = roomy.create(1, b"f")
    await roomy.do(created)
    sets = [Setxattr(created.ino, b"%d" % n, b"v", 0, NOW_NS) for n in range(4000)]
    first = await roomy.do(*sets)
    assert not first.refused_number
    assert 0 < len(first.seqs) < 4000


async def test_a_region_takes_so_many_pieces_and_no_more(roomy):
    (grant,) = await roomy.allocate()
    ino = await in_pieces(roomy, b"f", 90_000)
    extents = tuple(Extent(180_000 + 2 * n, 1, grant.chunk, n % 100) for n in range(90_000))
    write = Write(ino, extents, 1 << 20, NOW_NS, NOW_NS)
    reply = await roomy.do(write, receipts=roomy.receipts(grant, 100))
    assert reply.refused_code == Code.FILE_TOO_BIG
    assert not (await roomy.do(Write(ino, extents[:100], 1 << 20, NOW_NS, NOW_NS))).refused_number


async def test_a_batch_that_touches_too_much_is_refused_whole_and_less_of_it_is_not(roomy):
    ino = await in_pieces(roomy, b"f", 99_999)
    for n in range(10):
        await roomy.do(CloneRange(ino, 0, 199_998, ino, (n + 1) * REGION, NOW_NS))
    with pytest.raises(CloudVergeError) as caught:
        await roomy.do(Setattr(ino, NOW_NS, mode=0o600), Truncate(ino, 0, NOW_NS))
    assert caught.value.code == Code.BAD_REQUEST
    for size in (5 * REGION, 0):
        reply = await roomy.do(Truncate(ino, size, NOW_NS))
        assert not reply.refused_number
    assert reply.used_bytes == 0


async def test_attributes_beyond_what_can_be_loaded_are_refused_whole(roomy, world):
    files = [roomy.create(1, b"f%d" % n) for n in range(130)]
    await roomy.do(*files)
    await world.sql(
        "insert into meta.xattrs (space, ino, name, value, version)"
        " select $1, unnest($2::bigint[]), '\\x61', convert_to(repeat('x', 260000), 'UTF8'), 1 returning 1",
        roomy.who.space, [each.ino for each in files],
    )  # fmt: skip
    world.kept.take(roomy.who.space)
    sets = [Setxattr(each.ino, b"a", b"", 0, NOW_NS) for each in files]
    with pytest.raises(CloudVergeError) as caught:
        await roomy.do(*sets)
    assert caught.value.code == Code.BAD_REQUEST
    assert len((await roomy.do(*sets[:100])).seqs) == 100
