"""Tickets in hand: for ranges of chunks, for servers, for open chunks; kept for most of their life and no longer."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_mount import rangebook
from cloudverge_mount.rangebook import NUMBERS, SMALL_BYTES, SPAN_BYTES, RangeBook, Right, spans_for
from cloudverge_mount.ticketbook import USABLE, TicketBook
from cloudverge_protocol.errors import Code, Unavailable
from cloudverge_protocol.messages import ChunkGrant, Place, RangeTicket, TicketsReply

pytestmark = pytest.mark.trio

LIFE_S = 60.0
HERE = (Place(1, "127.0.0.1", 1),)


class FakeRights:
    space = session = incarnation = lease_epoch = 1
    confined = True


class PlayedMeta:
    """Gives what ``ranges`` has for each chunk asked by anybody, and tickets for ``servers``."""

    def __init__(self):
        self.requests = []
        self.ranges = []  # (chunk, start, end)
        self.servers = {1, 2, 3}
        self.error = None
        self.pause_s = 0.0

    async def tickets(self, request):
        self.requests.append(request)
        number = len(self.requests)
        await trio.sleep(self.pause_s)
        if self.error is not None:
            raise self.error
        read = tuple(
            (server, f"read-{server}-{number}") for server in request.servers if server in self.servers
        )
        append = tuple((chunk, f"append-{chunk}-{number}") for chunk in request.chunks)
        ranges = tuple(
            RangeTicket(chunk, start, end - start, f"range-{number}", HERE)
            for chunk, start, end in self.ranges
        )
        return TicketsReply(LIFE_S, read, append, ranges)


@pytest.fixture
def meta():
    return PlayedMeta()


@pytest.fixture
def ranges(meta):
    return RangeBook(meta, FakeRights())


@pytest.fixture
def tickets(meta):
    return TicketBook(meta, FakeRights())


# --- ranges -----------------------------------------------------------------------------------------------


async def test_a_right_serves_all_reads_inside_it_for_most_of_its_life(autojump_clock, meta, ranges):
    meta.ranges = [(7, 100, 200)]
    for start, end in ((100, 200), (150, 151), (199, 200)):
        assert (await ranges.right(5000, 0, 7, start, end)).ticket == "range-1"
    await trio.sleep(LIFE_S * USABLE - 1)
    assert (await ranges.right(5000, 0, 7, 100, 200)).ticket == "range-1"
    await trio.sleep(2)
    assert (await ranges.right(5000, 0, 7, 100, 200)).ticket == "range-2"


async def test_what_no_single_right_covers_is_asked_for_and_may_not_be_had(autojump_clock, meta, ranges):
    meta.ranges = [(7, 100, 200), (7, 300, 400)]
    for start, end in ((99, 150), (150, 201), (150, 350), (200, 300), (250, 260)):
        assert await ranges.right(5000, 0, 7, start, end) is None
    assert await ranges.right(5000, 0, 8, 100, 200) is None
    assert len(meta.requests) == 6


async def test_a_new_right_takes_only_its_part_of_older_ones(autojump_clock, meta, ranges):
    meta.ranges = [(7, 0, 1000)]
    await ranges.right(5000, 0, 7, 0, 1000)
    meta.ranges = [(7, 400, 1100)]
    assert (await ranges.right(5000, 0, 7, 500, 1100)).ticket == "range-2"
    assert (await ranges.right(5000, 0, 7, 0, 400)).ticket == "range-1"
    assert (await ranges.right(5000, 0, 7, 400, 600)).ticket == "range-2"
    meta.ranges = [(7, 390, 410)]
    assert (await ranges.right(5000, 0, 7, 395, 405)).ticket == "range-3"
    assert (await ranges.right(5000, 0, 7, 410, 1100)).ticket == "range-2"
    assert len(meta.requests) == 3


async def test_a_ticket_that_failed_is_forgotten_and_others_are_not(autojump_clock, meta, ranges):
    meta.ranges = [(7, 0, 100)]
    await ranges.right(5000, 0, 7, 0, 100)
    meta.ranges = [(7, 100, 200)]
    await ranges.right(5000, 100, 7, 100, 200)
    ranges.forget(7, "range-1")
    ranges.forget(8, "range-1")
    assert (await ranges.right(5000, 100, 7, 100, 200)).ticket == "range-2"
    assert await ranges.right(5000, 0, 7, 0, 100) is None
    assert len(meta.requests) == 3


async def test_who_waits_for_the_same_right_does_not_ask_again(autojump_clock, meta, ranges, nursery):
    meta.ranges, meta.pause_s = [(7, 0, 100)], 1.0
    found = []

    async def ask(start):
        found.append(await ranges.right(5000, start, 7, start, start + 1))

    async with trio.open_nursery() as asking:
        for start in range(50):
            asking.start_soon(ask, start)
    assert {right.ticket for right in found} == {"range-1"}
    assert len(meta.requests) == 1


async def test_what_is_remembered_is_bounded(autojump_clock, meta, ranges, monkeypatch):
    monkeypatch.setattr(rangebook, "CHUNKS_MAX", 10)
    monkeypatch.setattr(rangebook, "RANGES_MAX", 20)
    for chunk in range(30):
        meta.ranges = [(chunk, number * 10, number * 10 + 5) for number in range(50)]
        await ranges.right(5000, 0, chunk, 490, 495)
        assert await ranges.right(5000, 0, chunk, 490, 495) is not None
    assert len(ranges._held) == 10
    assert max(len(held) for held in ranges._held.values()) == 20


def taken_simply(held, right, now):
    """What stays of ``held`` with ``right`` over it: the whole list made anew, expired ones left out."""
    made = []
    for old in held:
        if now < old.until:
            if old.start < right.start:
                made.append(old._replace(end=min(old.end, right.start)))
            if old.end > right.end:
                made.append(old._replace(start=max(old.start, right.end)))
    made = sorted([*made, right], key=lambda each: each.start)
    if len(made) > rangebook.RANGES_MAX:
        del made[0 if made.index(right) > rangebook.RANGES_MAX // 2 else -1]
    return made


some_ranges = st.lists(
    st.tuples(st.sampled_from((7, 8)), st.integers(0, 60), st.integers(1, 25)), max_size=12
)


@given(st.lists(st.tuples(st.integers(0, 40), some_ranges), max_size=8))
async def test_what_is_held_of_a_chunk_is_as_if_it_were_made_anew_for_each_range(replies):
    now, model, meta = 0.0, {}, PlayedMeta()
    book = RangeBook(meta, FakeRights(), clock=lambda: now)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rangebook, "RANGES_MAX", 8)
        for number, (pause_s, ranges) in enumerate(replies, 1):
            now += pause_s
            meta.ranges = [(chunk, start, start + length) for chunk, start, length in ranges]
            await book._ask(())
            for chunk, start, end in meta.ranges:
                right = Right(start, end, f"range-{number}", HERE, now + LIFE_S * USABLE)
                model[chunk] = taken_simply(model.get(chunk, ()), right, now)
            assert book._held == model


async def test_neighbours_are_asked_for_with_small_files_only():
    first, *others = spans_for(5003, 0, 4000)
    assert (first.ino, first.offset, first.length) == (5003, 0, SPAN_BYTES)
    numbers = {span.ino for span in others}
    assert len(numbers) == NUMBERS - 1
    assert numbers | {5003} == set(range(4992, 5120))
    assert {(span.offset, span.length) for span in others} == {(0, SMALL_BYTES)}
    assert len(spans_for(5003, 4096, 4000)) == len(spans_for(5003, 0, SMALL_BYTES + 1)) == 1
    assert 1 not in {span.ino for span in spans_for(2, 0, 10)}
    (across,) = spans_for(5003, SPAN_BYTES - 10, 1000)
    assert across.length == 1000


# --- servers and open chunks ------------------------------------------------------------------------------


async def test_each_server_has_a_ticket_of_its_own(autojump_clock, meta, tickets):
    assert await tickets.read(1) == "read-1-1"
    assert await tickets.read(2) == "read-2-2"
    assert await tickets.read(1) == "read-1-2", "the others are refreshed with it"
    assert len(meta.requests) == 2


async def test_a_ticket_is_shown_to_introduce_us_only_with_enough_life_left(autojump_clock, meta, tickets):
    await tickets.read(1)
    await trio.sleep(30)
    assert await tickets.read(1, left_s=25) == "read-1-1"
    await trio.sleep(10)
    assert await tickets.read(1) == "read-1-1"
    assert await tickets.read(1, left_s=25) == "read-1-2"


async def test_what_a_server_did_not_believe_is_replaced_before_the_next_use(autojump_clock, meta, tickets):
    tickets.hold(ChunkGrant(9, 1, 1 << 20, HERE, "append-9"), trio.current_time())
    await tickets.read(1)
    assert await tickets.append(9) == "append-9-1", "refreshed with the other"
    tickets.expire()
    assert await tickets.read(1) == "read-1-2"
    assert await tickets.append(9) == "append-9-2"
    assert len(meta.requests) == 2


async def test_a_server_that_the_metaserver_does_not_know_gets_none(autojump_clock, meta, tickets):
    await tickets.read(1)
    with pytest.raises(Unavailable, match="chunkserver 99"):
        await tickets.read(99)
    assert await tickets.read(1)


async def test_while_the_metaserver_is_away_what_is_in_hand_serves_on(autojump_clock, meta, tickets, nursery):
    nursery.start_soon(tickets.run)
    await tickets.read(1)
    meta.error = Unavailable(Code.UNREACHABLE, "away")
    await trio.sleep(LIFE_S * USABLE - 1)
    assert await tickets.read(1) == "read-1-1"
    await trio.sleep(2)
    with pytest.raises(Unavailable):
        await tickets.read(1)
    meta.error = None
    assert (await tickets.read(1)).startswith("read-1-")


async def test_tickets_in_use_are_refreshed_before_they_are_needed(autojump_clock, meta, tickets, nursery):
    nursery.start_soon(tickets.run)
    for _ in range(40):
        asked = len(meta.requests)
        await tickets.read(1)
        assert len(meta.requests) == asked or asked == 0
        await trio.sleep(5)
    asked = len(meta.requests)
    await trio.sleep(1000)
    assert len(meta.requests) <= asked + 5, "not for ever when nobody reads"
