"""Range tickets: the very bytes that files refer to, and no others; and how much is given at once."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_auth.tokens import MAX_TOKEN_BYTES, verify_chunk
from cloudverge_metaserver import ranges as module
from cloudverge_metaserver.ranges import RANGES_PER_TICKET, SPANS_MAX, runs_of
from cloudverge_protocol.errors import Code, ProtocolFault
from cloudverge_protocol.ids import CHUNK_BYTES, ID_MAX, REGION_BYTES
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.messages import Span, Tickets
from cloudverge_protocol.operations import Write

NOW_NS = 1_700_000_000_000_000_000

extents = st.lists(
    st.builds(Extent, st.integers(0, 1000), st.integers(1, 20), st.integers(1, 3), st.integers(0, 60)),
    max_size=12,
)


@given(extents)
def test_runs_are_exactly_the_bytes_of_the_extents_in_order_and_never_touch(found):
    wanted = {(e.chunk, e.chunk_offset + n) for e in found for n in range(e.length)}
    runs = runs_of(found)
    assert {
        (chunk, start + n) for chunk, each in runs.items() for start, length in each for n in range(length)
    } == wanted
    for each in runs.values():
        ends = [start + length for start, length in each]
        assert all(end < start for end, (start, _) in zip(ends, each[1:], strict=False))


def test_bytes_that_touch_in_a_chunk_are_one_run_wherever_they_are_in_files():
    assert runs_of(
        (Extent(900, 10, 1, 10), Extent(0, 10, 1, 0), Extent(0, 5, 2, 0), Extent(5, 5, 1, 30))
    ) == {
        1: [(0, 20), (30, 5)],
        2: [(0, 5)],
    }
    assert runs_of(()) == {}


# --- on real PostgreSQL -----------------------------------------------------------------------------------


@pytest.fixture
def asked(world, mount):
    """The range tickets for these spans, as the owner of the space or as somebody else."""

    async def ask(*spans, who=None):
        message = Tickets(1, mount.opened.session, 1, 1, spans=tuple(Span(*span) for span in spans))
        return (await world.chunks.tickets(who or mount.who, message)).ranges

    return ask


@pytest.fixture
def claims_of(world):
    """What a range ticket says."""

    def read(given):
        desk = world.chunks._desk
        return verify_chunk(desk.key.ring(), given.ticket, "c" * 32, time.time())

    return read


async def file_of(mount, *pieces, name=b"file"):
    """A file of pieces (offset, length, place in its chunk), and the chunk."""
    (grant,) = await mount.allocate()
    op = mount.create(1, name)
    extents = tuple(Extent(offset, length, grant.chunk, start) for offset, length, start in pieces)
    size = max(extent.end for extent in extents)
    end = max(extent.chunk_offset + extent.length for extent in extents)
    write = Write(op.ino, extents, size, NOW_NS, NOW_NS)
    assert (await mount.do(op, write, receipts=mount.receipts(grant, end))).refused_code == 0
    return op.ino, grant


@pytest.mark.anyio
async def test_a_span_gives_its_own_bytes_to_the_byte_and_holes_give_nothing(mount, asked, claims_of):
    ino, grant = await file_of(mount, (0, 100, 1000), (200, 100, 5000))
    given = await asked((ino, 50, 200))
    assert [(one.chunk, one.offset, one.length) for one in given] == [
        (grant.chunk, 1050, 50),
        (grant.chunk, 5000, 50),
    ]
    claims = claims_of(given[0])
    assert (claims.right, claims.chunk, claims.ranges) == ("read", grant.chunk, ((1050, 50), (5000, 50)))
    assert set(claims.servers) == {place.server for place in grant.places}
    assert await asked((ino, 100, 100)) == ()
    assert await asked((ino, 300, 1 << 40)) == ()


@pytest.mark.anyio
@pytest.mark.parametrize("span", [(0, 0), (5, -1), (-1, 5), (0, 1 << 61), (1 << 60, 1), (ID_MAX, ID_MAX)])
async def test_spans_that_no_file_can_have_give_nothing(mount, asked, span):
    ino, _ = await file_of(mount, (0, 100, 0))
    assert await asked((ino, *span)) == ()


@pytest.mark.anyio
async def test_absent_and_impossible_inodes_give_nothing(mount, asked):
    assert (
        await asked((1 << 40, 0, 5), (0, 0, 5), (-1, 0, 5), (ID_MAX, 0, 5), (1 << 70, 0, 5), (1, 0, 5)) == ()
    )


@pytest.mark.anyio
async def test_a_ticket_has_so_many_ranges_and_no_more_and_always_fits_a_header(mount, asked, claims_of):
    far = CHUNK_BYTES - 4 * RANGES_PER_TICKET
    pieces = [(2 * n, 1, far + 2 * n) for n in range(RANGES_PER_TICKET + 3)]
    ino, _ = await file_of(mount, *pieces)
    given = await asked((ino, 0, 1 << 20))
    assert [(one.offset, one.length) for one in given] == [(start, 1) for _, _, start in pieces]
    tickets = list(dict.fromkeys(one.ticket for one in given))
    assert [len(ticket) <= MAX_TOKEN_BYTES for ticket in tickets] == [True, True]
    assert len(claims_of(given[0]).ranges) == RANGES_PER_TICKET
    assert len(claims_of(given[-1]).ranges) == 3
    assert all((one.offset, one.length) in claims_of(one).ranges for one in given)


@pytest.mark.anyio
async def test_so_many_spans_can_be_asked_for_at_once(mount, asked):
    ino, _ = await file_of(mount, (0, 100, 0))
    assert len(await asked(*((ino, n % 100, 1) for n in range(SPANS_MAX)))) == 1
    with pytest.raises(ProtocolFault) as caught:
        await asked(*((ino, 0, 1) for _ in range(SPANS_MAX + 1)))
    assert caught.value.code == Code.BAD_REQUEST


@pytest.mark.anyio
async def test_what_is_too_much_for_a_reply_is_left_out_at_the_end(mount, asked, monkeypatch):
    ino, _ = await file_of(mount, *((10 * n, 1, 10 * n) for n in range(9)))
    monkeypatch.setattr(module, "RANGES_MAX", 4)
    assert [one.offset for one in await asked((ino, 0, 100))] == [0, 10, 20, 30]
    monkeypatch.setattr(module, "REGIONS_MAX", 1)
    assert [one.offset for one in await asked((ino, REGION_BYTES, 5), (ino, 0, 25))] == []


@pytest.mark.anyio
async def test_a_right_that_has_ended_gives_tickets_that_nobody_believes(
    mount, asked, claims_of, make_identity
):
    ino, _ = await file_of(mount, (0, 100, 0))
    (given,) = await asked((ino, 0, 100), who=make_identity(until=int(time.time()) - 1))
    with pytest.raises(Exception, match="token"):
        claims_of(given)
    (given,) = await asked((ino, 0, 100), who=make_identity(until=int(time.time()) + 20))
    assert claims_of(given).exp <= time.time() + 20
