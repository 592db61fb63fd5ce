"""Who did what to which path from which device: told behind the commits, chained, and read by those who may."""

import stat
from dataclasses import dataclass

import pytest

from cloudverge_metaserver import audit as module
from cloudverge_metaserver import auditlog
from cloudverge_metaserver.audit import Auditor
from cloudverge_metaserver.auditlog import Asked, AuditLog
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.operations import (
    RENAME_EXCHANGE,
    Create,
    Link,
    PunchHole,
    Reap,
    Rename,
    Rmdir,
    Setattr,
    Setxattr,
    Truncate,
    Unlink,
)
from tests.metaserver.conftest import NOW_NS, Mount, World

pytestmark = pytest.mark.anyio

FOLDER = stat.S_IFDIR | 0o755


@dataclass
class Told:
    """The audit of one world."""

    world: World
    auditor: Auditor
    log: AuditLog

    async def tell(self) -> None:
        while await self.auditor.tell(1):
            pass

    async def page(self, who, ino: int = 1, below: bool = True, before: int = 0, limit: int = 100):
        await self.tell()
        return await self.log.page(who, Asked(ino, below, before, limit))

    async def lines(self, who, ino: int = 1, below: bool = True) -> list[tuple[str, str, str]]:
        """Oldest first."""
        page = await self.page(who, ino, below)
        assert page.intact
        return [(line.action, line.path, line.detail) for line in reversed(page.entries)]


@pytest.fixture
def told(world: World) -> Told:
    return Told(world, Auditor(world.database), AuditLog(world.database))


def moved(mount: Mount, parent: int, name: bytes, to: int, new: bytes, ino: int, target: int = 0, **more):
    ids = {"dentry": next(mount.ids), "other": next(mount.ids) if more.get("flags") else 0}
    return Rename(parent, name, to, new, ino, target, more.get("flags", 0), False, **ids, now_ns=NOW_NS)


# --- what is told ---------------------------------------------------------------------------------------


async def test_a_new_file_that_is_written_and_given_its_mode_is_one_line(told, mount):
    (grant,) = await mount.allocate()
    made = mount.create(1, b"a.txt")
    write = mount.write(made.ino, grant, 1000)
    await mount.do(made, write, receipts=mount.receipts(grant, 1000))
    await mount.do(Setattr(made.ino, NOW_NS, mode=0o600, mtime_ns=5), Truncate(made.ino, 10, NOW_NS))
    page = await told.page(mount.who)
    (line,) = page.entries
    assert (line.action, line.path, line.detail) == ("created", "a.txt", "size 10, mode 0600, times")
    assert (line.user, line.device, line.seq) == ("user1", "laptop 1", 1)
    assert page.next is None
    row = (await told.world.sql("select seq_first, seq_last, session from meta.audit"))[0]
    assert tuple(row) == (1, 4, mount.opened.session)


async def test_a_file_that_is_made_without_a_name_is_told_by_the_name_it_gets(told, mount):
    ino = next(mount.ids)
    await mount.do(Create(1, b"", ino, 0, 0o100600, 5, 5, NOW_NS), Truncate(ino, 9, NOW_NS))
    await mount.do(Link(ino, 1, b"named", next(mount.ids), NOW_NS))
    lines = await told.lines(mount.who)
    assert [line[0] for line in lines] == ["created", "linked"]
    assert lines[0][2] == "without a name, size 9"
    assert lines[1][1] == "named"


async def test_each_thing_that_is_done_has_its_word(told, mount):
    folder, file, other = mount.create(1, b"f", FOLDER), mount.create(1, b"x"), mount.create(1, b"y")
    await mount.do(folder, file, other)
    await told.tell()
    await mount.do(
        Setattr(file.ino, NOW_NS, uid=5),
        Setxattr(other.ino, b"user.tag", b"1", 0, NOW_NS),
        Link(file.ino, folder.ino, b"x2", next(mount.ids), NOW_NS),
        moved(mount, 1, b"x", folder.ino, b"z", file.ino),
        moved(mount, 1, b"y", folder.ino, b"z", other.ino, file.ino),
        Truncate(other.ino, 7, NOW_NS),
        PunchHole(other.ino, 2, 3, NOW_NS),
        Unlink(folder.ino, b"x2", file.ino, False, NOW_NS),
        Unlink(folder.ino, b"z", other.ino, False, NOW_NS),
        Rmdir(1, b"f", folder.ino, False, NOW_NS),
    )
    lines = await told.lines(mount.who)
    assert lines[:3] == [("created", "f", "folder"), ("created", "x", ""), ("created", "y", "")]
    assert lines[3:] == [
        ("changed", "x", "owner 5:-"),
        ("wrote", "y", "attribute user.tag, size 7, emptied a range"),
        ("linked", "f/x2", ""),
        ("renamed", "f/z", "from x"),
        ("renamed", "f/z", "from y"),
        ("replaced", "f/z", ""),
        ("removed", "f/x2", ""),
        ("removed", "f/z", ""),
        ("removed", "f", "folder"),
    ]


async def test_an_exchange_is_told_of_both(told, mount):
    one, two = mount.create(1, b"one"), mount.create(1, b"two")
    await mount.do(one, two)
    await mount.do(moved(mount, 1, b"one", 1, b"two", one.ino, two.ino, flags=RENAME_EXCHANGE))
    assert (await told.lines(mount.who))[2:] == [
        ("renamed", "two", "from one"),
        ("renamed", "one", "from two"),
    ]


async def test_reading_and_clearing_away_are_not_told(told, mount):
    made = mount.create(1, b"a")
    await mount.do(made, Setattr(made.ino, NOW_NS, atime_ns=9))
    await mount.do(Unlink(1, b"a", made.ino, True, NOW_NS), Reap(made.ino))
    assert [line[0] for line in await told.lines(mount.who)] == ["created", "removed"]


async def test_what_is_done_by_others_or_much_later_is_told_apart(told, world, mount, make_identity):
    made = mount.create(1, b"a")
    await mount.do(made)
    await mount.do(Truncate(made.ino, 1, NOW_NS))
    await world.sql("update meta.oplog set at = at + interval '61 s' where seq = 2 returning 1")
    await world.sessions.close(mount.who, mount.ref)
    other = await world.open(make_identity(user=2, device=7))
    await other.do(Truncate(made.ino, 2, NOW_NS))
    page = await told.page(mount.who)
    assert [(line.action, line.user, line.device) for line in page.entries] == [
        ("wrote", "user2", "laptop 7"), ("wrote", "user1", "laptop 1"), ("created", "user1", "laptop 1"),
    ]  # fmt: skip


async def test_users_are_named_as_they_were_called_then(told, world, mount):
    await world.sql("update meta.sessions set user_name = 'ann' returning 1")
    await mount.do(mount.create(1, b"a"))
    await told.tell()
    await world.sql("update meta.sessions set user_name = 'anna' returning 1")
    await mount.do(mount.create(1, b"b"))
    assert [line.user for line in (await told.page(mount.who)).entries] == ["anna", "ann"]


async def test_names_that_are_no_text_are_told(told, mount):
    made = mount.create(1, b"\xff\x01")
    await mount.do(made, Setxattr(made.ino, b"user.\xfe", b"", 0, NOW_NS))
    assert await told.lines(mount.who) == [("created", "\\xff\x01", "attribute user.\\xfe")]


# --- when -----------------------------------------------------------------------------------------------


async def test_a_space_is_told_when_it_is_quiet_or_has_waited_long_or_much_is_waiting(
    told, world, mount, monkeypatch
):
    async def seq() -> int:
        await told.auditor.run()
        return await world.value("select coalesce(max(seq), 0) from meta.audited")

    await mount.do(mount.create(1, b"a"))
    assert await seq() == 0
    await world.sql("update meta.oplog set at = at - interval '3 s' returning 1")
    assert await seq() == 1
    await mount.do(mount.create(1, b"b"))
    await mount.do(mount.create(1, b"c"))
    assert await seq() == 1
    await world.sql("update meta.oplog set at = at - interval '61 s' where seq = 2 returning 1")
    assert await seq() == 3
    monkeypatch.setattr(module, "BACKLOG_MAX", 1)
    await mount.do(mount.create(1, b"d"))
    assert await seq() == 3
    await mount.do(mount.create(1, b"e"))
    assert await seq() == 5


async def test_a_large_backlog_is_told_in_several_passes_and_each_operation_once(
    told, world, mount, monkeypatch
):
    monkeypatch.setattr(module, "PASS_MAX", 7)
    monkeypatch.setattr(module, "PAGE", 3)
    await mount.do(*(mount.create(1, b"f%d" % n) for n in range(20)))
    assert await told.auditor.tell(1)
    await told.tell()
    assert [line[1] for line in await told.lines(mount.who)] == [f"f{n}" for n in range(20)]
    assert await told.log.check(1)


# --- who may read what ----------------------------------------------------------------------------------


@pytest.fixture
async def tree(mount) -> dict[str, int]:
    """/a/b/x, /a/y and /z; inodes by name."""
    a = mount.create(1, b"a", FOLDER)
    b = mount.create(a.ino, b"b", FOLDER)
    x, y, z = mount.create(b.ino, b"x"), mount.create(a.ino, b"y"), mount.create(1, b"z")
    await mount.do(a, b, x, y, z)
    return {"a": a.ino, "b": b.ino, "x": x.ino, "y": y.ino, "z": z.ino}


async def test_readers_may_not_see_the_log(told, mount, tree, make_identity):
    with pytest.raises(CloudVergeError) as caught:
        await told.page(make_identity(role="reader"))
    assert caught.value.code == Code.FORBIDDEN


async def test_the_log_of_one_inode_and_of_all_below_a_folder(told, mount, tree):
    await mount.do(Truncate(tree["x"], 1, NOW_NS))
    assert [line[1] for line in await told.lines(mount.who, tree["x"], below=False)] == ["a/b/x"]
    assert [line[1] for line in await told.lines(mount.who, tree["a"], below=False)] == ["a"]
    assert [line[1] for line in await told.lines(mount.who, tree["b"])] == ["a/b", "a/b/x"]
    assert [line[1] for line in await told.lines(mount.who, tree["a"])] == ["a", "a/b", "a/b/x", "a/y"]


async def test_a_path_is_told_as_it_was_then(told, mount, tree):
    await told.tell()
    await mount.do(Truncate(tree["x"], 1, NOW_NS))
    await told.tell()
    await mount.do(moved(mount, tree["a"], b"b", 1, b"c", tree["b"]))
    await told.tell()
    await mount.do(Truncate(tree["x"], 2, NOW_NS))
    assert await told.lines(mount.who, tree["x"], below=False) == [
        ("created", "a/b/x", ""), ("wrote", "a/b/x", "size 1"), ("wrote", "c/x", "size 2"),
    ]  # fmt: skip
    assert ("renamed", "c", "from a/b") in await told.lines(mount.who, tree["b"])


async def test_what_was_below_a_folder_that_is_gone_is_still_told(told, mount, tree):
    await mount.do(
        Unlink(tree["b"], b"x", tree["x"], False, NOW_NS), Rmdir(tree["a"], b"b", tree["b"], False, NOW_NS)
    )
    assert [line[:2] for line in await told.lines(mount.who, tree["a"])][-2:] == [
        ("removed", "a/b/x"), ("removed", "a/b"),
    ]  # fmt: skip
    assert ("removed", "a/b/x", "") in await told.lines(mount.who, tree["b"])


async def test_who_is_confined_sees_what_happened_in_his_tree_and_no_name_outside(
    told, mount, tree, make_identity
):
    guest = make_identity(user=2, role="editor", grant=9, root=tree["b"])
    await told.tell()
    await mount.do(
        moved(mount, tree["a"], b"y", tree["b"], b"in", tree["y"]),
        moved(mount, tree["b"], b"x", 1, b"out-there", tree["x"]),
        Truncate(tree["x"], 7, NOW_NS),
    )
    lines = await told.lines(guest)
    assert lines == [
        ("created", "x", ""),
        ("renamed", "in", "from elsewhere"),
        ("renamed", "x", "to elsewhere"),
    ]
    assert [line[1] for line in await told.lines(guest, tree["y"], below=False)] == ["in"]
    for outside in (tree["a"], tree["z"], tree["x"], tree["b"], 1 << 40):
        with pytest.raises(CloudVergeError) as caught:
            await told.page(guest, outside)
        assert caught.value.code == Code.NOT_FOUND


async def test_a_ticket_from_before_a_right_was_taken_away_reads_nothing(told, world, mount, tree):
    await world.sql("update meta.spaces set membership_epoch = 5 returning 1")
    with pytest.raises(CloudVergeError) as caught:
        await told.page(mount.who)
    assert caught.value.code == Code.UNAUTHORIZED


@pytest.mark.parametrize("below", [True, False])
async def test_pages_follow_each_other_without_a_gap(told, world, mount, tree, monkeypatch, below):
    monkeypatch.setattr(auditlog, "PAGE", 4)
    monkeypatch.setattr(auditlog, "SCANNED_MAX", 8)
    monkeypatch.setattr(module, "PASS_MAX", 1)
    for n in range(30):
        await mount.do(Truncate(tree["x"], n, NOW_NS), Truncate(tree["z"], n, NOW_NS))
    seen, before = [], 0
    while before is not None:
        page = await told.page(mount.who, tree["b"] if below else tree["x"], below, before, 3)
        assert page.intact
        assert len(page.entries) <= 3
        seen += [line.seq for line in page.entries]
        before = page.next
    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == 31 + below


# --- the chain ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tamper",
    [
        "update meta.audit set user_id = 99 where n = 3",
        "update meta.audit set at = at + interval '1 microsecond' where n = 3",
        "update meta.audit set new_name = 'x' where n = 3",
        "delete from meta.audit where n = 3",
        "delete from meta.audit where n = 5",
        "delete from meta.audit where n = 1",
        "update meta.audited set n = 4, hash = (select hash from meta.audit where n = 3)",
        "update meta.audit set prev = '' where n = 3",
    ],
)
async def test_what_is_changed_or_taken_out_is_noticed(told, world, mount, tree, tamper):
    assert (await told.page(mount.who)).intact
    assert await told.log.check(1)
    await world.sql(tamper + " returning 1")
    assert not await told.log.check(1)
    assert not (await told.page(mount.who)).intact


async def test_a_line_whose_neighbour_was_taken_out_is_not_intact(told, world, mount, tree):
    assert (await told.page(mount.who, tree["b"], below=False)).intact
    await world.sql("delete from meta.audit where n = 3 returning 1")
    assert not (await told.page(mount.who, tree["b"], below=False)).intact
    assert (await told.page(mount.who, tree["z"], below=False)).intact


async def test_old_lines_are_dropped_and_the_chain_begins_where_it_is_told_to(told, world, mount, tree):
    await told.tell()
    await world.sql("update meta.audit set at = at - interval '3 days' where n <= 2 returning 1")
    keeper = Auditor(world.database, keep_days=2)
    assert await keeper.run()
    assert not await keeper.run()
    assert await world.value("select min(n) from meta.audit") == 3
    assert await told.log.check(1)
    assert [line[1] for line in await told.lines(mount.who)] == ["a/b/x", "a/y", "z"]
    await mount.do(Truncate(tree["x"], 1, NOW_NS))
    await told.tell()
    await world.sql("update meta.audit set at = at - interval '3 days' where n <= 3 returning 1")
    assert await Auditor(world.database, keep_days=2).run()
    assert ("wrote", "a/b/x", "size 1") in await told.lines(mount.who)  # by the namespace of now
    assert ("wrote", "a/b/x", "size 1") in await told.lines(mount.who, tree["b"])
    await world.sql("delete from meta.audit where n = 4 returning 1")
    assert not await told.log.check(1)


async def test_nothing_is_dropped_unless_the_operator_says_so(told, world, mount, tree):
    await told.tell()
    await world.sql("update meta.audit set at = at - interval '9999 days' returning 1")
    await told.auditor.run()
    assert await world.value("select count(*) from meta.audit") == 5
