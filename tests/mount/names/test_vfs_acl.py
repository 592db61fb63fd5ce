"""Access control lists through the vfs: kept with the mode, handed on, and cheap where there are none."""

import errno
import itertools
import os
import random
import stat
from pathlib import Path

import pytest

from cloudverge_mount import errnos
from cloudverge_mount.acl import ACCESS, DEFAULT, NAMED, format_acl, parse_acl
from cloudverge_mount.filesystem import Caller, SetattrRequest
from cloudverge_mount.vfs import OwnerPolicy
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.operations import Create, Removexattr, Setattr, Setxattr
from tests.fixtures.fakespace import assert_same
from tests.fixtures.openfiles import refused
from tests.mount.names.test_acl import acl, some_list

pytestmark = pytest.mark.trio

BOB = format_acl(acl("u7 U1000:6 g5 m7 o0"))


async def heeding(mounts, owners: OwnerPolicy | None = None):
    vfs = await mounts.start(owners)
    vfs.acl = True
    return vfs


async def lists(vfs, ino: int) -> dict[bytes, bytes]:
    return {name: await vfs.getxattr(ino, name) for name in await vfs.listxattr(ino)}


async def permissions(vfs, ino: int) -> int:
    return stat.S_IMODE((await vfs.getattr(ino)).mode)


async def test_an_access_list_sets_the_mode_and_goes_when_the_mode_says_all(mounts, root) -> None:
    vfs = await heeding(mounts)
    ino = (await mounts.file(1, b"f")).ino
    await vfs.setattr(ino, SetattrRequest(mode=0o4644), root)
    await vfs.setxattr(ino, ACCESS, BOB, 0)
    assert await permissions(vfs, ino) == 0o4770
    assert await lists(vfs, ino) == {ACCESS: BOB}
    await vfs.setxattr(ino, ACCESS, format_acl(acl("u6 g4 o4")), 0)
    assert (await permissions(vfs, ino), await lists(vfs, ino)) == (0o4644, {})
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_setgid_goes_with_an_access_list_of_somebody_outside_the_group(mounts, root) -> None:
    vfs = await heeding(mounts)
    ino = (await vfs.mkdir(1, b"d", 0o2755, root)).ino
    await vfs.setxattr(ino, DEFAULT, BOB, 0, True)
    await vfs.setxattr(ino, ACCESS, BOB, 0)
    assert await permissions(vfs, ino) == 0o2770
    await vfs.setxattr(ino, ACCESS, BOB, 0, True)
    assert await permissions(vfs, ino) == 0o770


async def test_chmod_changes_the_list_on_mounts_too_whose_kernel_does_not_heed_it(mounts, root) -> None:
    vfs = await heeding(mounts)
    ino = (await mounts.file(1, b"f")).ino
    await vfs.setxattr(ino, ACCESS, BOB, 0)
    await vfs.setattr(ino, SetattrRequest(mode=0o640), root)
    assert parse_acl(await vfs.getxattr(ino, ACCESS)) == acl("u6 U1000:6 g5 m4 o0")
    vfs.acl = False
    await vfs.setattr(ino, SetattrRequest(mode=0o600), root)
    assert parse_acl(await vfs.getxattr(ino, ACCESS)) == acl("u6 U1000:6 g5 m0 o0")


async def test_where_the_kernel_does_not_heed_them_lists_are_attributes_like_any_other(mounts, root) -> None:
    vfs = await mounts.start()
    ino = (await vfs.mkdir(1, b"d", 0o755, root)).ino
    for name, value in ((ACCESS, BOB), (DEFAULT, b"anything")):
        await vfs.setxattr(ino, name, value, 0)
        assert await vfs.getxattr(ino, name) == value
    assert await permissions(vfs, ino) == 0o755
    await vfs.setxattr(ino, DEFAULT, BOB, 0)
    child = await vfs.mkdir(ino, b"c", 0o700, root)
    assert (stat.S_IMODE(child.mode), await vfs.listxattr(child.ino)) == (0o700, [])
    await vfs.removexattr(ino, ACCESS)
    with refused(Code.NO_ATTR):
        await vfs.removexattr(ino, ACCESS)


async def test_what_cannot_be_read_as_a_list_is_none(mounts, root) -> None:
    vfs = await mounts.start()
    ino = (await vfs.mkdir(1, b"d", 0o755, root)).ino
    await vfs.setxattr(ino, DEFAULT, b"anything", 0)
    await vfs.setxattr(ino, ACCESS, b"anything", 0)
    vfs.acl = True
    assert stat.S_IMODE((await vfs.mkdir(ino, b"c", 0o777, root)).mode) == 0o755
    await vfs.setattr(ino, SetattrRequest(mode=0o711), root)
    assert await vfs.getxattr(ino, ACCESS) == b"anything"


async def test_lists_are_refused_where_they_cannot_be(mounts, root) -> None:
    vfs = await heeding(mounts)
    ino = (await mounts.file(1, b"f")).ino
    with refused(Code.INVALID):
        await vfs.setxattr(ino, ACCESS, BOB[:-8], 0)
    with refused(Code.FORBIDDEN):
        await vfs.setxattr(ino, DEFAULT, BOB, 0)
    link = await vfs.symlink(1, b"link", b"f", root)
    with refused(Code.NOT_SUPPORTED):
        await vfs.setxattr(link.ino, ACCESS, BOB, 0)
    await vfs.removexattr(ino, ACCESS)  # as on ext4, what is not there can be removed
    mounts.rights.read_only = True
    with refused(Code.READ_ONLY):
        await vfs.setxattr(ino, ACCESS, BOB, 0)


async def test_the_umask_counts_where_there_is_no_default_list(mounts) -> None:
    vfs = await heeding(mounts)
    caller = Caller(0, 0, 1, 0o027)
    folder = await vfs.mkdir(1, b"d", 0o777, caller)
    assert stat.S_IMODE(folder.mode) == 0o750
    await vfs.setxattr(folder.ino, DEFAULT, BOB, 0)
    _, file = await vfs.create(folder.ino, b"f", 0o666, os.O_RDWR, caller)
    assert stat.S_IMODE(file.mode) == 0o660
    link = await vfs.symlink(folder.ino, b"l", b"f", caller)
    assert (stat.S_IMODE(link.mode), await vfs.listxattr(link.ino)) == (0o777, [])
    child = await vfs.mkdir(folder.ino, b"c", 0o777, caller)
    assert await lists(vfs, child.ino) == {ACCESS: BOB, DEFAULT: BOB}
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)


async def test_setgid_of_the_folder_stays_with_what_inherits_a_list(mounts, root) -> None:
    vfs = await heeding(mounts)
    folder = await vfs.mkdir(1, b"d", 0o2777, root)
    await vfs.setxattr(folder.ino, DEFAULT, BOB, 0)
    assert await permissions(vfs, (await vfs.mkdir(folder.ino, b"c", 0o777, root)).ino) == 0o2770


async def test_making_files_asks_the_server_nothing_about_lists(mounts, root) -> None:
    vfs = await heeding(mounts)
    await vfs.mkdir(1, b"d", 0o755, root)
    await vfs.mkdir(1, b"e", 0o755, root)
    await vfs.setxattr((await vfs.lookup(1, b"e")).ino, DEFAULT, BOB, 0)
    await mounts.settle()
    mounts.kill()
    for path in mounts.folder.iterdir():
        if path.name.startswith("replica"):
            path.unlink()
    vfs = await heeding(mounts)
    for name in (b"d", b"e"):
        await vfs.lookup(1, name)
    trips = []
    for folder in (b"d", b"d", b"e", b"e", b"e"):
        before = vfs.core.loader.round_trips
        ino = (await vfs.lookup(1, folder)).ino
        await vfs.create(ino, b"%d" % len(trips), 0o666, os.O_RDWR, root)
        trips.append(vfs.core.loader.round_trips - before)
    assert trips[1:] == [0, 1, 0, 0]  # the list of e, once
    ops = len(vfs.core.ledger.outbox)
    await vfs.create((await vfs.lookup(1, b"d")).ino, b"more", 0o666, os.O_RDWR, root)
    assert len(vfs.core.ledger.outbox) == ops + 1


# --- in between ------------------------------------------------------------------------------------------


def may(mode: int, access, subject: str) -> int:
    """What the kernel grants to the owner, to one who is named, to one of the group and to any other."""
    if subject == "owner":
        return mode >> 6 & 7
    if access is None or not mode & 0o070:
        return mode >> 3 & 7 if subject == "group" else mode & 7
    by_tag = {entry.tag: entry.permissions for entry in access if entry.tag not in NAMED}
    mask = by_tag.get(0x10, 7)
    named = [entry.permissions for entry in access if entry.tag == 0x02]
    if subject == "named" and named:
        return named[0] & mask
    return by_tag[0x04] & mask if subject == "group" else by_tag[0x20]


async def test_no_state_in_between_gives_anybody_what_neither_end_gives(mounts, root) -> None:
    """Each operation is applied to a copy of the rows as a crash, or another mount, would leave them."""
    vfs = await heeding(mounts)
    choices, made = random.Random(3), []
    accept = vfs.core.ledger.accept

    def watched(op, *arguments, **named):
        made.append(op)
        return accept(op, *arguments, **named)

    vfs.core.ledger.accept = watched
    folder = (await vfs.mkdir(1, b"d", 0o777, root)).ino
    for turn in range(150):
        value = valid_list(choices)
        await vfs.setxattr(folder, DEFAULT, value, 0)
        made.clear()
        mode = choices.randrange(0o1000)
        ino = (await vfs.mkdir(folder, b"%d" % turn, mode, root)).ino
        assert_never_wider(made, 0, None)
        for _ in range(4):
            row, made[:] = await vfs.getattr(ino), []
            there = (await lists(vfs, ino)).get(ACCESS)
            if choices.random() < 0.5:
                await vfs.setxattr(ino, ACCESS, valid_list(choices), 0)
            else:
                await vfs.setattr(ino, SetattrRequest(mode=choices.randrange(0o1000)), root)
            assert_never_wider(made, row.mode, there)


def valid_list(choices: random.Random) -> bytes:
    while True:
        try:
            return format_acl(parse_acl(some_list(choices)))
        except CloudVergeError:
            pass


def assert_never_wider(ops: list, mode: int, value: bytes | None) -> None:
    states = [(mode, value)]
    for op in ops:
        mode, value = states[-1]
        if isinstance(op, Create | Setattr):
            mode = op.mode
        elif op.name == ACCESS:
            value = op.value if isinstance(op, Setxattr) else None
            assert isinstance(op, Setxattr | Removexattr)
        states.append((mode, value))
    for subject in ("owner", "named", "group", "other"):
        grants = [may(mode, parse_acl(value) if value else None, subject) for mode, value in states]
        assert all(grant in (grants[0], grants[-1], 0) for grant in grants), (subject, states)


# --- the same as on a local file system ------------------------------------------------------------------


def outcome(call) -> int:
    """The errno of a call, 0 for none."""
    try:
        call()
    except OSError as error:
        return error.errno
    return 0


class Local:
    """The same calls on a folder of a local file system, with the vfs beside it."""

    def __init__(self, vfs, path: Path) -> None:
        self.vfs = vfs
        self.inos = {path: 1}

    async def same(self, call, coroutine) -> None:
        """Do both; they must end alike."""
        code = outcome(call)
        if code:
            with pytest.raises(CloudVergeError, check=lambda error: errnos.errno_of(error) == code):
                await coroutine
        else:
            await coroutine

    async def compare(self) -> None:
        for path, ino in self.inos.items():
            row = await self.vfs.getattr(ino)
            assert oct(row.mode) == oct(path.lstat().st_mode), path
            local = {name: os.getxattr(path, name) for name in os.listxattr(path)}
            assert await lists(self.vfs, ino) == {name.encode(): value for name, value in local.items()}, path


async def test_a_random_history_ends_as_on_a_local_file_system(mounts, tmp_path, root) -> None:
    vfs = await heeding(mounts)
    top = tmp_path / "top"
    top.mkdir()
    if outcome(lambda: os.setxattr(top, ACCESS, BOB)) == errno.EOPNOTSUPP:
        pytest.skip("no access control lists in the folder for temporary files")
    os.removexattr(top, ACCESS)
    os.chmod(top, 0o755)
    await vfs.setattr(1, SetattrRequest(mode=0o755), root)
    local, choices, numbers = Local(vfs, top), random.Random(7), itertools.count()
    for _ in range(400):
        path = choices.choice(list(local.inos))
        await step(local, choices, path, path / str(next(numbers)))
    await local.compare()
    assert len(local.inos) > 50
    await mounts.settle()
    await assert_same(vfs, mounts.server, mounts.disk)


async def step(local: Local, choices: random.Random, path: Path, new: Path) -> None:
    vfs, ino, umask, mode = (
        local.vfs,
        local.inos[path],
        choices.choice((0, 0o22, 0o77)),
        choices.randrange(0o1000),
    )
    caller, value = Caller(0, 0, 1, umask), some_list(choices)
    name, is_dir = choices.choice((ACCESS, DEFAULT)), (await vfs.getattr(ino)).is_dir
    match choices.choice(("mkdir", "mknod", "set", "set", "remove", "chmod")):
        case "mkdir" if is_dir:
            old = os.umask(umask)
            os.mkdir(new, mode)
            os.umask(old)
            local.inos[new] = (await vfs.mkdir(ino, new.name.encode(), mode, caller)).ino
        case "mknod" if is_dir:
            old = os.umask(umask)
            os.mknod(new, stat.S_IFREG | mode)
            os.umask(old)
            local.inos[new] = (await vfs.mknod(ino, new.name.encode(), stat.S_IFREG | mode, 0, caller)).ino
        case "set":
            await local.same(lambda: os.setxattr(path, name, value), vfs.setxattr(ino, name, value, 0))
        case "remove":
            await local.same(lambda: os.removexattr(path, name), vfs.removexattr(ino, name))
        case "chmod":
            os.chmod(path, mode)
            await vfs.setattr(ino, SetattrRequest(mode=mode), caller)
