"""Sessions that are confined to a sub-tree, on real PostgreSQL: nothing outside exists for them, in any request."""

import pytest

from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.messages import Feed, Load, Span, Tickets
from cloudverge_protocol.operations import (
    ChunkDone,
    Create,
    Link,
    Reap,
    Rename,
    Rmdir,
    Setattr,
    Setxattr,
    Unlink,
)

pytestmark = pytest.mark.anyio
NOW_NS = 1_700_000_000_000_000_000
GRANT = 7


async def refused(coroutine) -> CloudVergeError:
    with pytest.raises(CloudVergeError) as caught:
        await coroutine
    return caught.value


async def make(mount, parent, name, mode=0o100644, **more):
    op = mount.create(parent, name, mode, **more)
    assert (await mount.do(op)).refused_code == 0
    return op.ino


async def folder(mount, parent, name):
    return await make(mount, parent, name, 0o40755)


def move(mount, parent, name, new_parent, new_name, ino, target=0, **more):
    dentry = next(mount.ids)
    return Rename(
        parent, name, new_parent, new_name, ino, target, 0, more.get("keep", False), dentry, 0, NOW_NS
    )


@pytest.fixture
async def shared(mount) -> int:
    """The folder that has been given away."""
    return await folder(mount, 1, b"shared")


@pytest.fixture
def guest(shared, make_identity):
    """A caller who was given it, to read and write."""
    return make_identity(user=2, device=2, role="editor", grant=GRANT, root=shared)


async def feed(world, who, since, limit=2000):
    return [entry.op for entry in (await world.feeding.feed(who, Feed(1, since, limit))).entries]


async def test_the_past_of_a_folder_is_not_told_in_pages_that_end_before_it_was_moved_in(
    world, mount, shared, guest
):
    private = await folder(mount, 1, b"private")
    secret = await make(mount, private, b"secret name")
    await mount.do(Unlink(private, b"secret name", secret, False, NOW_NS))
    await mount.do(move(mount, 1, b"private", shared, b"now public", private))
    for since in range(5):
        assert (await refused(world.feeding.feed(guest, Feed(1, since, 1)))).code == Code.RESYNC
    assert await feed(world, guest, 5) == []


async def test_the_past_of_a_file_is_not_told_in_pages_that_end_before_it_was_linked_in(
    world, mount, shared, guest
):
    file = await make(mount, 1, b"secret name")
    await mount.do(Setxattr(file, b"user.secret", b"value", 0, NOW_NS))
    link = Link(file, shared, b"public", next(mount.ids), NOW_NS)
    await mount.do(link)
    told = [await feed(world, guest, since, 1) for since in range(1, 4)]
    assert [op for page in told[:2] for op in page if hasattr(op, "ino")] == []
    assert told[2] == [Link(file, 1, b"public", link.dentry, NOW_NS)]


async def test_a_history_too_long_to_be_looked_at_is_not_told(world, mount, shared, guest, monkeypatch):
    monkeypatch.setattr("cloudverge_metaserver.feeding.FEED_MAX", 3)
    for name in (b"a", b"b", b"c"):
        await make(mount, shared, name)
    assert len(await feed(world, guest, 1)) == 3
    assert (await refused(world.feeding.feed(guest, Feed(1, 0)))).code == Code.RESYNC


async def test_a_rename_elsewhere_over_another_name_of_a_file_here_is_told(world, mount, shared, guest):
    file = await make(mount, shared, b"file")
    await mount.do(Link(file, 1, b"other name", next(mount.ids), NOW_NS))
    other = await make(mount, 1, b"other")
    since = await world.value("select seq from meta.spaces")
    await mount.do(move(mount, 1, b"other", 1, b"other name", other, file))
    assert await feed(world, guest, since) == [Setattr(file, NOW_NS)]


@pytest.fixture
async def visit(world, mount, guest):
    """Takes the space over for the guest; his mount."""

    async def come():
        await world.sessions.close(mount.who, mount.ref)
        return await world.open(guest)

    return come


async def back(world, visitor, owner):
    """The space for its owner again."""
    await world.sessions.close(visitor.who, visitor.ref)
    return await world.open(owner.who, owner.cache_id)


NOT_HERE = (Code.NOT_FOUND, "there is no such file in what you were given")


async def answer(visitor, *ops):
    """Code and words for the last operation, which must be refused."""
    reply = await visitor.do(*ops)
    assert (len(reply.seqs), reply.refused_number > 0) == (len(ops) - 1, True)
    return reply.refused_code, reply.refused_message


async def test_names_in_a_folder_that_was_moved_out_cannot_be_found_by_making_it_in_itself(
    world, mount, visit
):
    visitor = await visit()
    made = await folder(visitor, 1, b"mine")
    owner = await back(world, visitor, mount)
    shared = visitor.who.root
    await owner.do(move(owner, shared, b"mine", 1, b"taken away", made))
    await make(owner, made, b"secret")
    await world.sessions.close(owner.who, owner.ref)
    visitor = await world.open(visitor.who, visitor.cache_id)
    for name in (b"secret", b"something else"):
        in_itself = Create(made, name, made, next(visitor.ids), 0o100644, 0, 0, NOW_NS)
        assert await answer(visitor, in_itself) == NOT_HERE


async def test_a_file_that_lost_its_last_name_here_but_has_one_elsewhere_is_outside_at_once(
    world, mount, shared, visit
):
    file = await make(mount, shared, b"file")
    await mount.do(Link(file, 1, b"other name", next(mount.ids), NOW_NS))
    visitor = await visit()
    gone = Unlink(1, b"file", file, True, NOW_NS)
    assert await answer(visitor, gone, Setattr(file, NOW_NS, mode=0o777)) == NOT_HERE
    assert await answer(visitor, Setattr(file, NOW_NS, mode=0o777)) == NOT_HERE


async def test_a_file_without_a_name_is_for_who_has_it_open(world, mount, shared, visit):
    file = await make(mount, shared, b"file")
    foreign = await make(mount, shared, b"foreign")
    await mount.do(Unlink(shared, b"foreign", foreign, True, NOW_NS))
    visitor = await visit()
    done = await visitor.do(Unlink(1, b"file", file, True, NOW_NS), Setattr(file, NOW_NS))
    assert done.refused_code == 0
    assert (await visitor.do(Setattr(file, NOW_NS))).refused_code == 0
    assert await answer(visitor, Setattr(foreign, NOW_NS)) == NOT_HERE
    assert (await visitor.do(Reap(file))).refused_code == 0


async def test_nothing_is_in_a_folder_that_was_removed_even_while_it_is_open(world, mount, shared, guest):
    await mount.do(Rmdir(1, b"shared", shared, True, NOW_NS))
    await world.sessions.close(mount.who, mount.ref)
    load = Load(1, (1, shared), (), ((1, 0),), (1,))
    assert (await world.reading.load(guest, load)).inodes == ()
    assert await feed(world, guest, 1) == [ChunkDone(0)]
    assert (await refused(world.open(guest))).code == Code.NOT_FOUND


async def test_a_session_from_before_its_folder_was_removed_reaches_nothing(
    world, mount, shared, visit, guest
):
    visitor = await visit()
    await world.sql("update meta.inodes set nlink = 0 where ino = $1", shared)
    assert await answer(visitor, Setattr(1, NOW_NS, mode=0o700)) == NOT_HERE


async def test_a_refusal_names_the_root_by_the_number_the_session_knows(world, mount, shared, visit):
    visitor = await visit()
    file = await make(visitor, 1, b"file")
    assert await answer(visitor, visitor.create(1, b"file")) == (Code.EXISTS, "'file' exists in folder 1")
    code, words = await answer(visitor, Unlink(1, b"file", 1, False, NOW_NS))
    assert (code, words) == (Code.STALE, f"'file' in folder 1 is inode {file} now, not 1")
    for said in (1, shared, 1 << 40):
        op = Create(1, b"new", said, next(visitor.ids), 0o100644, 0, 0, NOW_NS)
        code, words = await answer(visitor, op)
        assert code == Code.INVALID
        assert f"the id {said} " in words


async def test_a_file_that_is_open_without_a_name_can_still_be_read_by_who_has_it_open(
    world, mount, shared, visit, make_identity
):
    visitor = await visit()
    file = await make(visitor, 1, b"file")
    (chunk,) = await visitor.allocate()
    await visitor.do(visitor.write(file, chunk, 100), receipts=visitor.receipts(chunk, 100))
    await visitor.do(Unlink(1, b"file", file, True, NOW_NS))
    load, session = Load(1, (file,), (), ((file, 0),)), visitor.opened.session
    tickets = Tickets(
        1, session, visitor.opened.incarnation, visitor.opened.lease_epoch, spans=(Span(file, 0, 100),)
    )
    other_grant = make_identity(user=2, device=2, role="editor", grant=GRANT + 1, root=shared)
    other_user = make_identity(user=3, device=3, role="editor", grant=GRANT, root=shared)
    for who, count in ((visitor.who, 1), (other_grant, 0), (other_user, 0)):
        reply = await world.reading.load(who, load)
        assert (len(reply.inodes), len(reply.regions)) == (count, count)
        ranges = (await world.chunks.tickets(who, tickets)).ranges
        assert [(given.offset, given.length) for given in ranges] == [(0, 100)] * count


async def test_a_file_without_a_name_is_of_the_session_that_made_it_until_it_is_linked(
    world, mount, shared, visit, guest
):
    visitor = await visit()
    ino, other = next(visitor.ids), next(visitor.ids)
    for made in (ino, other):
        await visitor.do(Create(1, b"", made, 0, 0o100600, 5, 5, NOW_NS))
    assert await world.value("select count(*) from meta.orphans where ino = $1", ino) == 1
    await visitor.do(Link(ino, 1, b"here", next(visitor.ids), NOW_NS))
    assert await world.value("select count(*) from meta.orphans where ino = $1", ino) == 0
    await visitor.do(Unlink(1, b"here", ino, False, NOW_NS))
    assert await answer(visitor, Setattr(ino, NOW_NS)) == NOT_HERE
    told = await feed(world, guest, 1)
    assert not [op for op in told if isinstance(op, Create)], "a name that is none is shown to nobody"
    owner = await back(world, visitor, mount)
    link = Link(other, shared, b"taken", next(owner.ids), NOW_NS)
    assert (await owner.do(link)).refused_code == Code.NOT_FOUND
