"""The session's life over a played metaserver: opening, renewing, losing the lease, ids."""

import itertools

import pytest
import trio

from cloudverge_mount.session import Session
from cloudverge_protocol.errors import Code, Denied, Refused, Unavailable
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
        self.read_only = False
        self.lease_s = LEASE_S
        self.seq = 0

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
            self.lease_s,
            self.seq,
            ((self.incarnation, 0),),
            first,
            16384,
            2,
            0,
            0,
            0,
            1,
            read_only=self.read_only,
        )

    async def renew(self, ref):
        self.renewals.append((trio.current_time(), ref.incarnation))
        if self.renewal_error is not None:
            raise self.renewal_error
        return SessionRenewed(self.lease_s, self.seq, 100, 10, 50, 5, 1000)

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


# --- hearing of others, and of the end of the right ---------------------------------------------------------


class Auth:
    """What auth says when it is asked whether we are still entitled."""

    def __init__(self):
        self.refusal = None
        self.asked = 0

    async def entitled(self):
        self.asked += 1
        if self.refusal is not None:
            raise self.refusal


@pytest.fixture
def auth():
    return Auth()


@pytest.fixture
def revocable(meta, auth):
    """A session that is told by auth, and what it says of its end."""
    session = Session(
        meta, SessionOpen(SpaceId(3), b"c" * 16, "laptop"), clock=trio.current_time, entitled=auth.entitled
    )
    session.told = []
    session.on_revoked(session.told.append)
    return session


def gaps_of(meta):
    return [later - earlier for (earlier, _), (later, _) in itertools.pairwise(meta.renewals)]


async def test_who_only_reads_asks_every_second_and_tells_how_far_the_space_is(
    autojump_clock, session, meta, nursery
):
    meta.read_only, meta.lease_s, seqs = True, 30.0, []
    session.on_seq(seqs.append)
    await session.open()
    nursery.start_soon(session.run)
    for meta.seq in (3, 3, 8):
        await trio.sleep(5)
    assert session.read_only
    assert max(gaps_of(meta)) <= 1.01
    assert sorted(set(seqs)) == [0, 3, 8]
    assert session.seq_now == 8


async def test_who_writes_asks_often_however_long_the_lease_is(autojump_clock, session, meta, nursery):
    meta.lease_s = 60.0
    await session.open()
    nursery.start_soon(session.run)
    await trio.sleep(30)
    assert max(gaps_of(meta)) <= 2.01
    assert len(meta.renewals) <= 20, "but not all the time"


@pytest.mark.parametrize("code", [Code.UNAUTHORIZED, Code.FORBIDDEN, Code.NOT_FOUND])
async def test_a_right_that_auth_says_is_gone_is_lost_for_good(
    autojump_clock, revocable, meta, auth, nursery, code
):
    await revocable.open()
    nursery.start_soon(revocable.run)
    auth.refusal = Denied(code, "you have no such grant")
    meta.renewal_error = Denied(Code.UNAUTHORIZED, "this is no valid ticket")
    meta.opening_errors = [Denied(Code.UNAUTHORIZED, "this is no valid ticket")] * 1000
    await trio.sleep(2.2)
    assert [error.message for error in revocable.told] == ["this is no valid ticket"]
    assert revocable.read_only
    opened = len(meta.openings)
    await trio.sleep(60)
    assert len(revocable.told) == 1
    assert len(meta.openings) == opened, "it goes on asking"


@pytest.mark.parametrize(
    "answer",
    [None, Unavailable(Code.UNREACHABLE, "auth is away"), Unavailable(Code.TIMEOUT, "auth is slow")],
    ids=["auth grants it", "auth is away", "auth is slow"],
)
async def test_what_only_the_metaserver_refuses_is_not_the_end(
    autojump_clock, revocable, meta, auth, nursery, answer
):
    await revocable.open()
    nursery.start_soon(revocable.run)
    auth.refusal = answer
    meta.renewal_error = Denied(Code.UNAUTHORIZED, "this is no valid ticket")
    meta.opening_errors = [Denied(Code.UNAUTHORIZED, "this is no valid ticket")] * 5
    await trio.sleep(8)
    assert revocable.read_only
    meta.renewal_error = None
    await trio.sleep(30)
    assert auth.asked
    assert revocable.told == []
    assert not revocable.read_only


async def test_a_metaserver_that_is_away_says_nothing_of_the_right(
    autojump_clock, revocable, meta, auth, nursery
):
    await revocable.open()
    nursery.start_soon(revocable.run)
    auth.refusal = Denied(Code.FORBIDDEN, "would be refused, but is not asked")
    meta.renewal_error = Unavailable(Code.UNREACHABLE, "away")
    await trio.sleep(30)
    assert (auth.asked, revocable.told) == (0, [])


async def test_a_space_that_is_in_use_elsewhere_is_not_a_right_that_is_lost(
    autojump_clock, revocable, meta, auth, nursery
):
    await revocable.open()
    nursery.start_soon(revocable.run)
    meta.renewal_error = Denied(Code.FENCED, "replaced")
    meta.opening_errors = [in_use(9.0)] * 5
    await trio.sleep(10)
    assert (auth.asked, revocable.told) == (0, [])


async def test_a_folder_that_was_given_and_is_gone_is_the_end(autojump_clock, revocable, meta, auth, nursery):
    await revocable.open()
    nursery.start_soon(revocable.run)
    meta.renewal_error = meta_gone = Refused(Code.NOT_FOUND, "there is no such file in what you were given")
    meta.opening_errors = [meta_gone] * 1000
    await trio.sleep(10)
    assert [error.code for error in revocable.told] == [Code.NOT_FOUND]


async def test_a_doubt_is_looked_into_at_once_and_not_over_and_over(autojump_clock, revocable, meta, nursery):
    meta.lease_s = 60.0
    await revocable.open()
    nursery.start_soon(revocable.run)
    await trio.sleep(0.5)
    before = len(meta.renewals)
    revocable.doubt()
    revocable.doubt()
    await trio.sleep(0.01)
    assert len(meta.renewals) == before + 1
    meta.renewal_error = Denied(Code.UNAUTHORIZED, "this is no valid ticket")
    meta.opening_errors = [Denied(Code.UNAUTHORIZED, "this is no valid ticket")] * 10_000
    for _ in range(1000):
        revocable.doubt()
        await trio.sleep(0.01)
    assert len(meta.openings) < 10
