"""Sessions and leases: who gets a space, when, and what becomes of those who had it."""

import pytest

from cloudverge_metaserver.database import Database
from cloudverge_metaserver.leases import Held, in_use, wait_to_open
from cloudverge_metaserver.reaping import Reaper
from cloudverge_metaserver.sessions import IDS_AT_OPEN, Sessions
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.messages import Feed, IncarnationClose, Load, SessionOpen, SessionRef, Tickets
from cloudverge_protocol.operations import ChunkDone, Reap, Unlink

pytestmark = pytest.mark.anyio
NOW_NS = 1_700_000_000_000_000_000


async def refused(coroutine) -> CloudVergeError:
    with pytest.raises(CloudVergeError) as caught:
        await coroutine
    return caught.value


async def age_lease(world, seconds: float) -> None:
    """As if the lease had been renewed so much earlier, and nothing had been away since."""
    await world.sql(
        "update meta.leases set expires_at = expires_at - $1::float8 * interval '1 s' returning 1", seconds
    )
    world.database.steady_since_s -= 1000


# --- opening ----------------------------------------------------------------------------------------------


async def test_the_first_session_makes_the_space_with_its_root(world, mount):
    opened = mount.opened
    assert (opened.seq, opened.replicas, opened.used_inodes, opened.ids) == (0, 2, 1, IDS_AT_OPEN)
    assert opened.high_water == ((opened.incarnation, 0),)
    root = (await world.reading.load(mount.who, Load(1, (1,)))).inodes[0]
    assert (root.ino, root.mode, root.nlink, root.parent, root.version) == (1, 0o40755, 2, 1, 0)


async def test_the_quota_comes_from_the_ticket_and_follows_it(world, make_identity):
    mount = await world.open(make_identity(quota_bytes=5, quota_inodes=7))
    assert (mount.opened.quota_bytes, mount.opened.quota_inodes) == (5, 7)
    renewed = await world.sessions.renew(make_identity(quota_bytes=50, quota_inodes=70), mount.ref)
    assert (renewed.quota_bytes, renewed.quota_inodes) == (50, 70)
    assert await world.value("select quota_bytes from meta.spaces") == 50


async def test_another_device_is_told_who_has_the_space_and_for_how_long(world, mount, make_identity):
    error = await refused(world.open(make_identity(device=2)))
    assert error.code == Code.SPACE_IN_USE
    assert "'laptop 1'" in error.message
    assert 0 < error.retry_after_s <= 10


async def test_the_same_cache_folder_takes_its_lease_over_at_once(world, mount):
    again = await world.open(mount.who, mount.cache_id)
    assert again.opened.session == mount.opened.session
    assert again.opened.incarnation > mount.opened.incarnation
    assert again.opened.lease_epoch > mount.opened.lease_epoch
    assert again.opened.first_id >= mount.opened.first_id + IDS_AT_OPEN
    assert (await refused(world.sessions.renew(mount.who, mount.ref))).code == Code.FENCED


async def test_a_cache_folder_in_the_hands_of_another_user_is_another_session(world, mount, make_identity):
    error = await refused(world.open(make_identity(user=2), mount.cache_id))
    assert error.code == Code.SPACE_IN_USE


async def test_a_lease_that_has_run_out_is_taken_over_by_another_device(world, mount, make_identity):
    await age_lease(world, 11)
    brief = Sessions(world.database, 0.05, 2)  # PostgreSQL itself may have started a few seconds ago only
    world.sessions = brief
    other = await world.open(make_identity(device=2))
    assert other.opened.session != mount.opened.session
    assert (await refused(mount.do(mount.create(1, b"a")))).code == Code.FENCED
    assert await world.value(
        "select fenced_at is not null from meta.incarnations where incarnation = $1", mount.opened.incarnation
    )


async def test_nobody_is_taken_over_for_one_lease_after_the_metaserver_came_back(world, mount, make_identity):
    await age_lease(world, 11)
    world.database.steady_since_s += 1000
    error = await refused(world.open(make_identity(device=2)))
    assert error.code == Code.SPACE_IN_USE
    assert error.retry_after_s > 5


async def test_a_database_that_was_away_starts_the_wait_anew(world, mount, make_identity):
    await age_lease(world, 11)
    await refused(world.value("select pg_terminate_backend(pg_backend_pid())"))
    error = await refused(world.open(make_identity(device=2)))
    assert error.code == Code.SPACE_IN_USE


async def test_a_lease_that_ran_out_but_was_not_taken_still_works_and_can_be_renewed(world, mount):
    await age_lease(world, 100)
    assert (await mount.do(mount.create(1, b"a"))).refused_code == 0
    assert (await world.sessions.renew(mount.who, mount.ref)).seq == 1
    assert await world.value("select expires_at > now() from meta.leases")


async def test_a_clean_close_frees_the_space_at_once(world, mount, make_identity):
    await world.sessions.close(mount.who, mount.ref)
    other = await world.open(make_identity(device=2))
    assert other.opened.seq == 0


async def test_sessions_of_others_and_absent_ones_are_answered_alike(world, mount, make_identity):
    other = await world.open(make_identity(space=2, user=2))
    asked = (
        (mount.who, other.ref),
        (mount.who, SessionRef(10**12, 10**12, 1)),
        (make_identity(space=9, user=9), mount.ref),
        (make_identity(user=2), mount.ref),
    )
    for call in (world.sessions.renew, world.sessions.close):
        answers = {(e.code, e.message) for e in [await refused(call(*one)) for one in asked]}
        assert len(answers) == 1


async def test_a_space_that_is_not_the_tickets_does_not_exist(world, mount):
    error = await refused(world.sessions.open(mount.who, SessionOpen(2, bytes(16), "x")))
    assert (error.code, error.message) == (Code.NOT_FOUND, "there is no such space")


async def test_a_reader_gets_a_session_without_a_lease_beside_the_writer(world, mount, make_identity):
    reader = await world.open(make_identity(user=2, device=2, role="reader"))
    assert reader.opened.read_only
    assert (await world.sessions.renew(reader.who, reader.ref)).seq == 0
    assert (await mount.do(mount.create(1, b"a"))).refused_code == 0
    await world.sessions.close(reader.who, reader.ref)
    assert (await refused(world.sessions.renew(reader.who, reader.ref))).code == Code.FENCED


async def test_a_malformed_cache_id_is_refused(world, make_identity):
    error = await refused(world.sessions.open(make_identity(), SessionOpen(1, b"short", "x")))
    assert error.code == Code.BAD_REQUEST


# --- what an incarnation leaves -----------------------------------------------------------------------------


async def test_pins_of_a_replaced_incarnation_stay_until_its_journal_has_been_shipped(world, mount):
    await mount.allocate()
    again = await world.open(mount.who, mount.cache_id)
    assert await world.value("select pinned_by from meta.chunks") == mount.opened.incarnation
    close = IncarnationClose(*again.mine, mount.opened.incarnation)
    await world.sessions.close_old(again.who, close)
    assert await world.value("select pinned_by from meta.chunks") is None
    await world.sessions.close_old(again.who, close)  # once more, the reply having been lost


async def test_the_current_incarnation_and_strangers_cannot_be_closed_as_old_ones(
    world, mount, make_identity
):
    other = await world.open(make_identity(space=2, user=2))
    ref = mount.mine
    answers = set()
    for old in (mount.opened.incarnation, other.opened.incarnation, 10**12):
        error = await refused(world.sessions.close_old(mount.who, IncarnationClose(*ref, old)))
        answers.add((error.code, error.message))
    assert len(answers) == 1


async def test_pins_are_let_go_after_seven_days(world, mount):
    await mount.allocate()
    await world.open(mount.who, mount.cache_id)
    await world.sql("update meta.incarnations set fenced_at = fenced_at - interval '8 days' returning 1")
    await Reaper(world.database).run()
    assert await world.value("select pinned_by from meta.chunks") is None


async def test_orphans_of_a_closed_incarnation_are_reaped_in_the_oplog(world, mount, make_identity):
    (grant,) = await mount.allocate()
    file = mount.create(1, b"f")
    await mount.do(
        file, mount.write(file.ino, grant, 700), Unlink(1, b"f", file.ino, True, NOW_NS),
        ChunkDone(grant.chunk), receipts=mount.receipts(grant, 700),
    )  # fmt: skip
    assert await world.value("select live_bytes from meta.chunks") == 700
    await world.sessions.close(mount.who, mount.ref)
    assert await Reaper(world.database).run()
    other = await world.open(make_identity(device=2))
    feed = await world.feeding.feed(other.who, Feed(1, 4))
    assert [(e.seq, e.session, e.incarnation, e.number, e.op) for e in feed.entries] == [
        (5, 0, 0, 0, Reap(file.ino))
    ]
    assert (other.opened.seq, other.opened.used_bytes, other.opened.used_inodes) == (5, 0, 1)
    assert await world.value("select live_bytes from meta.chunks") == 0
    assert not await Reaper(world.database).run()


async def test_append_tickets_are_for_the_own_open_chunks_of_the_lease_holder(world, mount):
    (grant,) = await mount.allocate()
    ref = mount.mine
    reply = await world.chunks.tickets(mount.who, Tickets(1, *ref, (grant.chunk, 999)))
    assert [chunk for chunk, _ in reply.append] == [grant.chunk]
    assert 30 < reply.life_s <= 60
    await world.open(mount.who, mount.cache_id)
    error = await refused(world.chunks.tickets(mount.who, Tickets(1, *ref, (grant.chunk,))))
    assert error.code == Code.FENCED


async def test_a_database_that_does_not_answer_is_unavailable_and_recovers(world, mount, postgres):
    await world.value("select 1")
    broken = Database("postgresql://nobody@127.0.0.1:1/none")
    error = await refused(broken.open())
    assert error.code == Code.UNAVAILABLE


# --- the decision, alone -------------------------------------------------------------------------------------


def test_a_free_space_and_the_own_lease_need_no_wait():
    held = Held(7, 1, "desk", 9.0)
    assert wait_to_open(None, 7, 0.0, 10.0) == 0
    assert wait_to_open(held, 7, 0.0, 10.0) == 0
    assert wait_to_open(held, 8, 100.0, 10.0) == 9.0


def test_a_lease_that_ran_out_waits_for_a_steady_lease():
    held = Held(7, 1, "desk", -50.0)
    assert wait_to_open(held, 8, 100.0, 10.0) == 0
    assert wait_to_open(held, 8, 3.0, 10.0) == 7.0


def test_the_answer_names_the_device_and_rounds_up():
    error = in_use(Held(7, 1, "Ann's desk", 3.2), 3.2)
    assert "Ann's desk" in error.message
    assert "4 s" in error.message
    assert error.retry_after_s == 3.2
