"""Waiting for locks on a loop: granted once, cancelled without a trace, ended with the owner; and through the vfs."""

import fcntl
import os

import pytest
import trio
import trio.testing

from cloudverge_mount.filesystem import Lock
from cloudverge_mount.lockrules import Key
from cloudverge_mount.locks import POLITE_S, MountLocks
from cloudverge_mount.ranges import END_MAX, Claim
from cloudverge_protocol.errors import Code, Refused
from tests.mount.names.conftest import ROOT, Mounts

pytestmark = pytest.mark.trio

FILE = Key(1, is_flock=False)


def refused(code: Code):
    return pytest.raises(Refused, check=lambda error: error.code == code)


def exclusive(owner: int, start: int = 0, end: int = END_MAX) -> Claim:
    return Claim(owner, start, end, True, owner)


def shared(owner: int) -> Claim:
    return Claim(owner, 0, END_MAX, False, owner)


@pytest.fixture
def locks() -> MountLocks:
    return MountLocks()


async def test_a_waiter_gets_the_lock_when_it_is_given_up_however_long_that_takes(
    locks, autojump_clock
) -> None:
    await locks.acquire(FILE, exclusive(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(locks.acquire, FILE, exclusive(2))
        await trio.sleep(10_000)
        assert (await locks.test(FILE, exclusive(3))).owner == 1
        await locks.release(FILE, 1)
    assert (await locks.test(FILE, exclusive(3))).owner == 2


async def test_a_cancelled_waiter_leaves_nothing_behind_and_lets_those_after_it_pass(
    locks, autojump_clock
) -> None:
    await locks.acquire(FILE, shared(1))
    got = []

    async def read() -> None:
        await locks.acquire(FILE, shared(3))
        got.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(POLITE_S / 2) as patience:
            nursery.start_soon(locks.acquire, FILE, exclusive(2))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(read)
            await locks.acquire(FILE, exclusive(4))
        assert patience.cancelled_caught
        assert got == []  # 2 waits still
        nursery.cancel_scope.cancel()
    await locks.forget(FILE, 1)
    assert not locks.rules


async def test_a_reader_is_polite_to_a_waiting_writer_for_a_while_only(locks, autojump_clock) -> None:
    start = trio.current_time()
    await locks.acquire(FILE, shared(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(locks.acquire, FILE, exclusive(2))
        await trio.testing.wait_all_tasks_blocked()
        await locks.acquire(FILE, shared(3))
        assert trio.current_time() - start == pytest.approx(POLITE_S)
        nursery.cancel_scope.cancel()


async def test_readers_close_upon_each_other_do_not_starve_a_writer(locks, autojump_clock) -> None:
    async def read(owner: int) -> None:
        await trio.sleep(owner * 0.1)
        while True:
            await locks.acquire(FILE, shared(owner))
            await trio.sleep(1)
            await locks.release(FILE, owner)

    async with trio.open_nursery() as nursery:
        for owner in range(1, 10):
            nursery.start_soon(read, owner)
        await trio.sleep(10)
        with trio.fail_after(POLITE_S):
            await locks.acquire(FILE, exclusive(99))
        nursery.cancel_scope.cancel()


async def test_many_who_take_and_give_up_at_random_all_get_their_turn(locks, autojump_clock) -> None:
    holders, turns = set[int](), []

    async def work(owner: int) -> None:
        for turn in range(20):
            with trio.move_on_after(0.5 if (owner + turn) % 3 == 0 else 10_000):
                await locks.acquire(FILE, exclusive(owner))
                assert not holders
                holders.add(owner)
                try:
                    await trio.sleep(0.1)
                    turns.append(owner)
                finally:
                    holders.discard(owner)
                    await locks.release(FILE, owner)

    async with trio.open_nursery() as nursery:
        for owner in range(1, 12):
            nursery.start_soon(work, owner)
    assert not locks.rules
    assert all(turns.count(owner) >= 13 for owner in range(1, 12))


async def test_a_deadlock_and_the_end_of_an_owner_end_the_wait_with_an_error(locks, autojump_clock) -> None:
    other = Key(2, is_flock=False)
    await locks.acquire(FILE, exclusive(1))
    await locks.acquire(other, exclusive(2))

    async def wait_in_vain() -> None:
        with refused(Code.BAD_HANDLE):
            await locks.acquire(other, exclusive(1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_in_vain)
        await trio.testing.wait_all_tasks_blocked()
        with refused(Code.DEADLOCK):
            await locks.acquire(FILE, exclusive(2))
        await locks.forget(other, 1)


# --- through the vfs -------------------------------------------------------------------------------------


@pytest.fixture
def mounts(tmp_path):
    held = Mounts(tmp_path / "cache")
    held.folder.mkdir()
    yield held
    held.kill()


def lock(
    owner: int, type_: int = fcntl.F_WRLCK, start: int = 0, end: int = END_MAX, flock: bool = False
) -> Lock:
    return Lock(owner, start, end, type_, owner * 10, flock)


async def opened(mounts, times: int):
    vfs = await mounts.start()
    ino = (await mounts.file(1, b"f", b"bytes")).ino
    return vfs, ino, [(await vfs.open(ino, os.O_RDWR, ROOT)).fh for _ in range(times)]


async def test_a_close_of_any_descriptor_ends_the_posix_locks_of_its_owner_only(mounts) -> None:
    vfs, ino, (first, second) = await opened(mounts, 2)
    await vfs.setlk(ino, first, lock(7, end=4), wait=False)
    await vfs.setlk(ino, first, lock(8, start=5), wait=False)
    assert await vfs.getlk(ino, second, lock(9)) == lock(7, end=4)
    with refused(Code.LOCKED):
        await vfs.setlk(ino, second, lock(9), wait=False)
    await vfs.flush(second, 7)
    assert await vfs.getlk(ino, second, lock(9)) == lock(8, start=5)
    await vfs.flush(first)
    assert await vfs.getlk(ino, second, lock(9)) is not None
    await vfs.setlk(ino, first, lock(8, fcntl.F_UNLCK), wait=False)
    assert await vfs.getlk(ino, second, lock(9)) is None


async def test_locks_of_open_file_descriptions_end_with_the_release_of_theirs(mounts) -> None:
    vfs, ino, (first, second, third) = await opened(mounts, 3)
    await vfs.setlk(ino, first, lock(7, end=4), wait=False)  # F_OFD_SETLK
    await vfs.setlk(ino, first, lock(7, fcntl.F_RDLCK, flock=True), wait=False)
    await vfs.setlk(ino, second, lock(8, fcntl.F_RDLCK, flock=True), wait=False)
    await vfs.flush(first, 1234)
    assert await vfs.getlk(ino, third, lock(9)) == lock(7, end=4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(vfs.setlk, ino, third, lock(9, flock=True), True)
        await trio.testing.wait_all_tasks_blocked()
        await vfs.release(first, 7)
        assert await vfs.getlk(ino, third, lock(9)) is None
        await vfs.release(second, 8)
    with refused(Code.BAD_HANDLE):
        await vfs.setlk(ino, first, lock(7), wait=True)
    await vfs.release(third)
    assert not vfs.locks.rules
    assert vfs.lockers == {}


async def test_a_lock_outlives_the_release_of_another_handle_its_owner_has_closed(mounts) -> None:
    vfs, ino, (shared_with_a_child, own) = await opened(mounts, 2)
    await vfs.setlk(ino, shared_with_a_child, lock(7), wait=False)
    await vfs.flush(shared_with_a_child, 7)
    await vfs.setlk(ino, own, lock(7), wait=False)
    await vfs.release(shared_with_a_child)  # the child has closed it too
    assert await vfs.getlk(ino, own, lock(9)) == lock(7)


async def test_bytes_are_in_the_spill_before_the_lock_is_given_up(mounts) -> None:
    vfs, ino, (first, second) = await opened(mounts, 2)
    await vfs.setlk(ino, first, lock(7), wait=False)
    await vfs.write(first, 0, b"changed")
    spilled = []

    async def next_one() -> None:
        await vfs.setlk(ino, second, lock(8), wait=True)
        spilled.append(vfs.core.content.is_spilled(ino))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(next_one)
        await trio.testing.wait_all_tasks_blocked()
        await vfs.flush(first, 7)
    assert spilled == [True]


async def test_odd_locks_are_refused(mounts) -> None:
    vfs, ino, (fh,) = await opened(mounts, 1)
    for odd in (lock(1, 77), lock(1, start=5, end=4), lock(1, start=-1), lock(1, end=END_MAX + 1)):
        with refused(Code.INVALID):
            await vfs.setlk(ino, fh, odd, wait=False)
    await vfs.setlk(ino, fh, lock(1, fcntl.F_UNLCK), wait=False)  # what nobody has locked can be unlocked
