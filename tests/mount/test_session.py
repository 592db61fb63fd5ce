"""The session's life over a played metaserver: opening, renewing, losing the lease, ids."""

import itertools

import pytest
import trio

from cloudverge_mount.session import Session
from cloudverge_protocol.errors import Code, Denied, Unavailable
from cloudverge_protocol.ids import SpaceId
from cloudverge_protocol.messages import IdsReply, SessionOpen, SessionRenewed, SessionReply

pytestmark = pytest.mark.trio

LEASE_S = 3.0


class Link:
    server = None


class PlayedMeta:
    """Grants what ``answers`` does not say otherwise."""

    def __init__(self):
        self.link = Link()
        self.incarnation = 0
        self.next_id = 1024
        self.renewals = []
        self.openings = []
        self.opening_errors = []
        self.renewal_error = None
        self.ids_error = None
        self.closed = []

    async def open_session(self, request):
        self.openings.append(trio.current_time())
        if self.opening_errors:
            raise self.opening_errors.pop(0)
        self.incarnation += 1
        first = self.next_id
        self.next_id += 16384
        return SessionReply(
            5,
            self.incarnation,
            self.incarnation,
            LEASE_S,
            0,
            ((self.incarnation, 0),),
            first,
            16384,
            2,
            0,
            0,
            0,
            1,
        )

    async def renew(self, ref):
        self.renewals.append((trio.current_time(), ref.incarnation))
        if self.renewal_error is not None:
            raise self.renewal_error
        return SessionRenewed(LEASE_S, 0, 100, 10, 50, 5, 1000)

    async def ids(self, request):
        if self.ids_error is not None:
            raise self.ids_error
        first = self.next_id
        self.next_id += request.count
        return IdsReply(first, request.count)

    async def close_session(self, ref):
        self.closed.append(ref)


def in_use(retry_after_s):
    error = Denied(Code.SPACE_IN_USE, "in use on the device 'tower'")
    error.retry_after_s = retry_after_s
    return error


@pytest.fixture
def meta():
    return PlayedMeta()


@pytest.fixture
def session(meta):
    return Session(meta, SessionOpen(SpaceId(3), b"c" * 16, "laptop"), clock=trio.current_time)


async def test_opening_tells_rights_and_room(autojump_clock, session, meta):
    with pytest.raises(Unavailable):
        session.ref()
    await session.open()
    assert (session.session, session.incarnation, session.replicas) == (5, 1, 2)
    assert (session.used_bytes, session.free_bytes, session.quota_bytes) == (50, 1000, 100)
    assert session.state == "EXCLUSIVE"
    assert not session.read_only
    session.note_use(450, 1, 1001)
    assert session.free_bytes == 600
    session.note_use(20, 1, 1002)
    assert session.free_bytes == 600, "what was removed is room only when the servers say so"


async def test_an_answer_that_was_overtaken_does_not_tell_what_is_used(autojump_clock, session, meta):
    await session.open()
    session.note_use(90, 2, 1002)
    session.note_use(60, 1, 1001)
    await session.ask_promise()  # which tells 50, as of an earlier seq
    assert (session.used_bytes, session.used_inodes) == (90, 2)


async def test_opening_waits_for_servers_that_start(autojump_clock, session, meta):
    meta.opening_errors = [Unavailable(Code.UNREACHABLE, "not yet")] * 5
    await session.open()
    assert session.incarnation == 1


async def test_opening_gives_up_when_no_server_ever_comes(autojump_clock, session, meta):
    meta.opening_errors = [Unavailable(Code.UNREACHABLE, "not yet")] * 10_000
    started = trio.current_time()
    with pytest.raises(Unavailable):
        await session.open(wait_s=10)
    assert trio.current_time() - started < 15


async def test_a_space_whose_holder_renews_is_refused_naming_the_device(autojump_clock, session, meta):
    meta.opening_errors = [in_use(8.0), in_use(7.0), in_use(6.0), in_use(9.5)]
    started = trio.current_time()
    with pytest.raises(Denied, match="tower"):
        await session.open()
    assert trio.current_time() - started < 5


async def test_a_space_whose_holder_is_gone_is_taken_over_after_its_lease(autojump_clock, session, meta):
    meta.opening_errors = [in_use(10.0 - second) for second in range(10)]
    await session.open()
    assert session.state == "EXCLUSIVE"


async def test_the_lease_is_renewed_every_third_of_it(autojump_clock, session, meta, nursery):
    await session.open()
    nursery.start_soon(session.run)
    await trio.sleep(10 * LEASE_S)
    times = [at for at, _ in meta.renewals]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) <= LEASE_S / 3 + 0.01


async def test_without_an_answer_the_lease_runs_out_and_comes_back(autojump_clock, session, meta, nursery):
    await session.open()
    nursery.start_soon(session.run)
    meta.renewal_error = Unavailable(Code.UNREACHABLE, "away")
    await trio.sleep(LEASE_S - 0.5)
    assert not session.offline
    await trio.sleep(2)
    assert session.offline
    assert session.state == "DORMANT"
    assert not session.read_only
    meta.renewal_error = None
    await trio.sleep(2)
    assert session.state == "EXCLUSIVE"
    assert session.incarnation == 1


async def test_a_lost_lease_is_opened_again_and_told(autojump_clock, session, meta, nursery):
    told = []
    session.on_reopened(lambda: told.append(session.incarnation))
    await session.open()
    first = session.take_id()
    nursery.start_soon(session.run)
    meta.renewal_error = Denied(Code.FENCED, "replaced")
    await trio.sleep(LEASE_S / 3 + 0.1)
    meta.renewal_error = None
    await trio.sleep(1)
    assert session.incarnation > 1
    assert told[-1] == session.incarnation
    assert session.take_id() > first + 16000


async def test_a_space_taken_by_another_device_is_read_only_until_it_is_free(
    autojump_clock, session, meta, nursery
):
    await session.open()
    nursery.start_soon(session.run)
    meta.renewal_error = Denied(Code.FENCED, "replaced")
    meta.opening_errors = [in_use(9.0)] * 5
    await trio.sleep(LEASE_S)
    assert session.read_only
    assert "tower" in session.trouble
    assert session.state == "DORMANT"
    meta.renewal_error = None
    await trio.sleep(30)
    assert not session.read_only
    assert session.state == "EXCLUSIVE"


async def test_ids_are_fetched_ahead_and_never_given_twice(autojump_clock, session, meta, nursery):
    await session.open()
    nursery.start_soon(session.run)
    taken = []
    for _ in range(60_000):
        await session.ensure_ids(2)
        taken.append(session.take_id())
    assert len(set(taken)) == len(taken)


async def test_without_ids_the_caller_hears_why(autojump_clock, session, meta):
    await session.open()
    meta.ids_error = Unavailable(Code.UNREACHABLE, "away")
    for _ in range(16384):
        session.take_id()
    with pytest.raises(Unavailable):
        session.take_id()
    with pytest.raises(Unavailable):
        await session.ensure_ids(1)
