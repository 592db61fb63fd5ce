"""The scheduling shim with pyfuse3's worker loop played by a small one over a pipe."""

import errno
import os

import pytest
import trio

from cloudverge_mount import shim

pytestmark = pytest.mark.trio


class Session:
    """A pipe as the FUSE descriptor, one byte a request, and as many workers as pyfuse3 would start."""

    def __init__(self, workers, handle):
        self.workers, self.handle = workers, handle
        self.reader, self.writer = os.pipe()
        self.tasks = self.started = 0
        self.active_readers = 0

    async def loop(self, nursery):
        self.started += 1
        while True:
            self.active_readers += 1
            try:
                await self.workers.wait_readable(self.reader)
            except trio.ClosedResourceError:
                return
            finally:
                self.active_readers -= 1
            request = os.read(self.reader, 1)
            if not request:
                return
            if not self.active_readers and self.tasks < 99:
                self.start(nursery)
            await self.handle(request)

    def start(self, nursery):
        self.tasks += 1
        self.workers.start(nursery, self.loop, nursery, name=f"worker {self.tasks}")


@pytest.fixture
async def run():
    """Run a session for the length of a test: ``session = await run(handle)``."""
    workers = shim.Workers(patience_s=0.2)
    trio.lowlevel.add_instrument(workers)
    sessions = []
    async with trio.open_nursery() as nursery:

        def begin(handle, session_kind=Session):
            session = session_kind(workers, handle)
            sessions.append(session)
            session.start(nursery)
            nursery.start_soon(workers.watch_deadlines)
            return session

        yield begin
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(workers)
    for session in sessions:
        os.close(session.reader)
        os.close(session.writer)


async def test_requests_are_answered_in_a_row_without_more_workers(run):
    seen = []

    async def handle(request):
        seen.append(request)

    session = run(handle)
    for _ in range(50):
        os.write(session.writer, b"xy")
        await trio.sleep(0.001)
    assert len(seen) == 100
    assert session.started <= 2


async def test_a_blocked_request_blocks_no_other(run):
    release, seen = trio.Event(), []

    async def handle(request):
        if request == b"b":
            await release.wait()
        seen.append(request)

    session = run(handle)
    for round_number in range(1, 6):
        os.write(session.writer, b"b" * round_number + b"x")
        await trio.sleep(0.02)
        assert seen == [b"x"] * round_number
    release.set()
    await trio.sleep(0.02)
    assert seen.count(b"b") == 15


async def test_other_tasks_get_their_turn_while_requests_never_pause(run):
    turns = 0

    async def handle(request):
        os.write(session.writer, request)

    session = run(handle)
    os.write(session.writer, b"x")
    with trio.move_on_after(0.3):
        while True:
            await trio.sleep(0.001)
            turns += 1
    assert turns > 30


async def test_a_request_that_takes_too_long_is_given_up_and_its_worker_serves_on(run):
    errors, seen = [], []

    async def handle(request):
        try:
            if request == b"h":
                await trio.sleep_forever()
            seen.append(request)
        except trio.Cancelled:
            if not session.workers.has_expired():
                raise
            errors.append(request)

    session = run(handle)
    os.write(session.writer, b"hx")
    await trio.sleep(0.05)
    assert errors == []
    await trio.sleep(0.3)
    os.write(session.writer, b"xhx")
    await trio.sleep(0.4)
    assert errors == [b"h", b"h"]
    assert seen == [b"x", b"x", b"x"]


async def test_a_patient_request_may_take_longer(run):
    seen = []

    async def handle(request):
        with session.workers.patient():
            await trio.sleep(0.4)
        seen.append(request)

    session = run(handle)
    os.write(session.writer, b"x")
    await trio.sleep(0.6)
    assert seen == [b"x"]


async def test_a_request_that_vanished_before_it_was_read_ends_nothing(run):
    seen = []

    async def handle(request):
        if request == b"v":
            raise BlockingIOError(errno.EAGAIN, "gone")
        seen.append(request)

    session = run(handle)
    os.write(session.writer, b"vxvx")
    await trio.sleep(0.05)
    assert seen == [b"x", b"x"]


async def test_closing_lets_all_idle_workers_go():
    workers = shim.Workers(29.0)
    release = trio.Event()
    trio.lowlevel.add_instrument(workers)

    async def handle(request):
        await release.wait()

    session = Session(workers, handle)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            session.start(nursery)
            os.write(session.writer, b"xxxx")
            await trio.sleep(0.02)
            release.set()
            await trio.sleep(0.02)
            assert session.started == 5
            workers.notify_closing(session.reader)
    trio.lowlevel.remove_instrument(workers)
    os.close(session.reader)
    os.close(session.writer)
