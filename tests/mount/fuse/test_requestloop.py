"""The loop of requests, with a packet socket in the kernel's place."""

import errno
import socket
import struct
from collections import Counter

import pytest
import trio
import trio.lowlevel

from cloudverge_mount.fuse import patience, requestloop
from cloudverge_mount.fuse.abi import Opcode
from cloudverge_mount.fuse.replies import error, ok
from cloudverge_mount.fuse.requestloop import RequestLoop
from cloudverge_mount.fuse.requests import Decoder
from cloudverge_protocol.errors import Code, Refused

pytestmark = pytest.mark.trio

PATIENCE_S = 0.5
IN_HEADER = struct.Struct("<IIQQIIII")
GETATTR, STATFS, FSYNC, SETLKW, INTERRUPT = (
    int(op) for op in (Opcode.GETATTR, Opcode.STATFS, Opcode.FSYNC, Opcode.SETLKW, Opcode.INTERRUPT)
)
BODY = {
    GETATTR: bytes(16),
    STATFS: b"",
    FSYNC: bytes(16),
    SETLKW: bytes(48),
    INTERRUPT: None,
    int(Opcode.FORGET): bytes(8),
}


def packet(opcode: int, unique: int, body: bytes | None = None, pid: int = 77) -> bytes:
    body = BODY.get(opcode, b"") if body is None else body
    return IN_HEADER.pack(IN_HEADER.size + len(body), opcode, unique, 1, 0, 0, pid, 0) + body


class Kernel:
    """The other end of the device: asks, and collects the answers."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.answers: dict[int, int] = {}  # errno by number

    def ask(self, opcode: int, unique: int, body: bytes | None = None, pid: int = 77) -> None:
        self._end.send(packet(opcode, unique, body, pid))

    async def hear(self, *uniques: int, within_s: float = 3.0) -> list[int]:
        """The errno of these answers, once all have come."""
        with trio.fail_after(within_s):
            while not self.answers.keys() >= set(uniques):
                try:
                    _, number, unique = struct.unpack("<IiQ", self._end.recv(4096)[:16])
                    assert unique not in self.answers, "answered twice"
                    self.answers[unique] = -number
                except BlockingIOError:
                    await trio.sleep(0.002)
        return [self.answers[unique] for unique in uniques]


class Files:
    """Handlers that do as they are told."""

    def __init__(self) -> None:
        self.go_on = trio.Event()
        self.ended = Counter()
        self.tasks = set()
        self.act = self.answer

    async def answer(self) -> None:
        pass

    async def quick(self, request, body):
        self.tasks.add(trio.lowlevel.current_task())
        await self.act()
        return ok(request.unique)

    async def slow(self, request, body):
        before = trio.lowlevel.current_task()
        try:
            await self.go_on.wait()
        finally:
            self.ended[request.unique] += 1
            assert trio.lowlevel.current_task() is before
        return ok(request.unique)


@pytest.fixture
def files():
    return Files()


@pytest.fixture
async def kernel(files, nursery):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        handlers = {GETATTR: files.quick, STATFS: files.slow, FSYNC: files.slow, SETLKW: files.slow}
        loop = RequestLoop(
            theirs.fileno(),
            Decoder(),
            8192,
            handlers,
            lambda request, why: errno.ENOENT if isinstance(why, Refused) else errno.EIO,
            patience_s=PATIENCE_S,
            longer_s={FSYNC: 60.0, SETLKW: 60.0},
            interruptible=(SETLKW,),
        )
        kernel = Kernel(ours)
        kernel.loop, kernel.over = loop, trio.Event()

        async def serve():
            await loop.run()
            kernel.over.set()

        nursery.start_soon(serve)
        yield kernel
        loop.end()
        await trio.sleep(0.01)


async def test_what_is_answered_at_once_is_answered_by_one_and_the_same_task(kernel, files):
    for unique in range(1, 200):
        kernel.ask(GETATTR, unique)
        assert await kernel.hear(unique) == [0]
    assert len(files.tasks) == 1


async def test_requests_that_wait_hold_up_no_others(kernel, files):
    for unique in range(1, 60):
        kernel.ask(STATFS, unique)
    kernel.ask(GETATTR, 99)
    assert await kernel.hear(99) == [0]
    assert len(kernel.answers) == 1
    files.go_on.set()
    assert await kernel.hear(*range(1, 60)) == [0] * 59
    kernel.ask(GETATTR, 100)
    assert await kernel.hear(100) == [0]


async def test_what_a_handler_raises_becomes_an_errno_before_and_after_it_waited(kernel, files):
    async def refuse():
        raise Refused(Code.NOT_FOUND, "not there")

    async def fail_later():
        await trio.sleep(0.01)
        raise ZeroDivisionError

    files.act = refuse
    kernel.ask(GETATTR, 1)
    assert await kernel.hear(1) == [errno.ENOENT]
    files.act = fail_later
    kernel.ask(GETATTR, 2)
    assert await kernel.hear(2) == [errno.EIO]
    files.act = files.answer
    kernel.ask(GETATTR, 3)
    assert await kernel.hear(3) == [0]


async def test_handlers_may_have_scopes_and_nurseries_of_their_own(kernel, files):
    async def with_scopes():
        with trio.move_on_after(0.01) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0.01)

    files.act = with_scopes
    for unique in range(1, 20):
        kernel.ask(GETATTR, unique)
    assert await kernel.hear(*range(1, 20)) == [0] * 19


async def test_what_takes_too_long_is_given_up_and_the_rest_goes_on(kernel, files):
    kernel.ask(STATFS, 1)
    kernel.ask(FSYNC, 2)
    assert await kernel.hear(1) == [errno.ETIMEDOUT]
    assert files.ended == {1: 1}
    kernel.ask(GETATTR, 3)
    assert await kernel.hear(3) == [0]
    files.go_on.set()
    assert await kernel.hear(2) == [0], "it may take longer"


async def test_who_waits_for_a_lock_is_interrupted_by_any_signal(kernel, files):
    kernel.ask(SETLKW, 1)
    kernel.ask(SETLKW, 2)
    kernel.ask(INTERRUPT, 3, struct.pack("<Q", 2))
    assert await kernel.hear(2) == [errno.EINTR]
    files.go_on.set()
    assert await kernel.hear(1) == [0]
    assert set(kernel.answers) == {1, 2}, "an INTERRUPT has no answer"


async def test_others_are_interrupted_when_their_caller_is_dying(kernel, files, monkeypatch):
    dying = set()
    monkeypatch.setattr(patience, "is_dying", dying.__contains__)
    kernel.ask(FSYNC, 1, pid=5)
    kernel.ask(FSYNC, 2, pid=6)
    kernel.ask(INTERRUPT, 3, struct.pack("<Q", 1))
    kernel.ask(INTERRUPT, 4, struct.pack("<Q", 2))
    await trio.sleep(0.1)
    assert not files.ended, "a signal that does not kill is nothing to a file"
    dying.add(6)  # the kernel does not tell a second time
    assert await kernel.hear(2) == [errno.EINTR]
    files.go_on.set()
    assert await kernel.hear(1) == [0]


async def test_an_interrupt_of_what_has_been_answered_is_ignored(kernel, files):
    kernel.ask(GETATTR, 1)
    kernel.ask(INTERRUPT, 2, struct.pack("<Q", 1))
    kernel.ask(INTERRUPT, 3, struct.pack("<Q", 12345))
    kernel.ask(GETATTR, 4)
    assert await kernel.hear(1, 4) == [0, 0]


async def test_what_is_not_known_or_malformed_gets_an_answer_if_one_is_waited_for(kernel):
    kernel.ask(4242, 1)
    kernel.ask(int(Opcode.FORGET), 2)
    kernel.ask(GETATTR, 3, b"short")
    kernel.ask(GETATTR, 4)
    assert await kernel.hear(1, 3, 4) == [errno.ENOSYS, errno.EIO, 0]
    assert 2 not in kernel.answers


async def test_all_that_waits_can_be_given_up_at_once(kernel, files):
    for unique in (1, 2, 3):
        kernel.ask(FSYNC, unique)
    await trio.sleep(0.05)
    kernel.loop.give_up_all(errno.EACCES)
    assert await kernel.hear(1, 2, 3) == [errno.EACCES] * 3
    kernel.ask(GETATTR, 4)
    assert await kernel.hear(4) == [0]


async def test_at_the_end_what_waits_is_let_go_of(kernel, files):
    kernel.ask(FSYNC, 1)
    await trio.sleep(0.05)
    kernel.loop.end()
    assert await kernel.hear(1) == [errno.ENOTCONN]
    assert kernel.loop.ended


async def test_when_it_is_unmounted_the_loop_ends_whatever_waits(kernel, files, monkeypatch):
    kernel.ask(FSYNC, 1)
    await trio.sleep(0.05)

    def gone(fd, buffers):
        raise OSError(errno.ENODEV, "unmounted")

    monkeypatch.setattr(requestloop.os, "readv", gone)
    kernel.ask(GETATTR, 2)
    with trio.fail_after(1):
        await kernel.over.wait()
    assert files.ended == {1: 1}


async def test_other_tasks_have_their_turn_however_many_requests_come(kernel, nursery):
    turns = 0

    async def count_turns():
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    nursery.start_soon(count_turns)
    for unique in range(1, 2000):
        kernel.ask(GETATTR, unique)
        if unique % 50 == 0:
            await kernel.hear(unique)
    assert turns > 20


async def test_with_allow_root_others_are_turned_away_but_for_what_they_have_open(kernel, files):
    kernel.loop._only_uid = 1000
    header = struct.Struct("<IIQQIIII")
    for unique, uid in ((1, 0), (2, 1000), (3, 2000)):
        kernel._end.send(header.pack(56, GETATTR, unique, 1, uid, 0, 1, 0) + BODY[GETATTR])
    kernel._end.send(header.pack(56, FSYNC, 4, 1, 2000, 0, 1, 0) + BODY[FSYNC])
    files.go_on.set()
    assert await kernel.hear(1, 2, 3, 4) == [0, 0, errno.EACCES, 0]


async def test_an_answer_the_kernel_does_not_take_becomes_eio(kernel, files, monkeypatch):
    sent = []

    def write(fd, reply):
        sent.append(reply)
        if len(sent) == 1:
            raise OSError(errno.EINVAL, "malformed")
        return len(reply)

    monkeypatch.setattr(requestloop.os, "write", write)
    kernel.ask(GETATTR, 1)
    with trio.fail_after(2):
        while len(sent) < 2:  # noqa: ASYNC110  no event tells
            await trio.sleep(0.01)
    assert sent == [ok(1), error(1, errno.EIO)]
