"""Who may do what: each request is checked for this chunk, space, epoch and server."""

import time

import pytest

from cloudverge_auth.keys import SigningKey
from cloudverge_auth.tokens import CHUNK_LIFE_S, LEEWAY_S, ChunkTicket, sign_chunk
from cloudverge_chunkserver.rights import Rights
from cloudverge_protocol.checksum import piece_crcs
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.ids import BLOCK_BYTES
from cloudverge_protocol.messages import (
    Epochs,
    FrameType,
    Place,
    ReplicaDelete,
    ReplicaFetch,
    ReplicaSeal,
    ReplicaStat,
    ReplicaVerify,
)

pytestmark = pytest.mark.anyio


def forged(cluster) -> str:
    claims = ChunkTicket("append", space=7, chunk=5, epoch=1, limit=1 << 26)
    return sign_chunk(SigningKey.generate(), cluster.name, claims, time.time())


APPEND_TICKETS = {
    "none": (lambda c: "", Code.UNAUTHORIZED),
    "garbage": (lambda c: "a.b.c", Code.UNAUTHORIZED),
    "an identity": (lambda c: c.identity(), Code.UNAUTHORIZED),
    "forged": (forged, Code.UNAUTHORIZED),
    "expired": (lambda c: c.ticket("append", 5, now_s=time.time() - 100), Code.UNAUTHORIZED),
    "of another server": (lambda c: c.ticket("append", 5, servers=(2, 3)), Code.UNAUTHORIZED),
    "to read": (lambda c: c.ticket("read", 5), Code.FORBIDDEN),
    "of control": (lambda c: c.ticket("control", 5), Code.FORBIDDEN),
    "of another chunk": (lambda c: c.ticket("append", 6), Code.FORBIDDEN),
    "of no chunk": (lambda c: c.ticket("append", 0), Code.FORBIDDEN),
    "of another space": (lambda c: c.ticket("append", 5, space=8), Code.NO_CHUNK),
    "of an older epoch": (lambda c: c.ticket("append", 5, epoch=0), Code.FENCED),
}


@pytest.mark.parametrize("kind", APPEND_TICKETS)
async def test_an_append_needs_a_ticket_for_exactly_this(cluster, kind):
    make, code = APPEND_TICKETS[kind]
    await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, b"mine")
    epoch = 0 if "epoch" in kind else 1
    with pytest.raises(CloudVergeError) as caught:
        await client.append(5, 4, b"not mine", ticket=make(cluster), epoch=epoch)
    assert caught.value.code == code
    assert (await client.read(5, 0, 100))[1] == b"mine"


READ_TICKETS = {
    "none": (lambda c: "", Code.UNAUTHORIZED),
    "expired": (lambda c: c.ticket("read", 5, now_s=time.time() - 100), Code.UNAUTHORIZED),
    "of another server": (lambda c: c.ticket("read", 5, servers=(2,)), Code.UNAUTHORIZED),
    "to append": (lambda c: c.ticket("append", 5), Code.FORBIDDEN),
    "of another chunk": (lambda c: c.ticket("read", 6), Code.NO_CHUNK),
    "of another space": (lambda c: c.ticket("read", space=8), Code.NO_CHUNK),
}


@pytest.mark.parametrize("kind", READ_TICKETS)
async def test_a_read_needs_a_ticket_for_this_space(cluster, kind):
    make, code = READ_TICKETS[kind]
    await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, b"mine")
    with pytest.raises(CloudVergeError) as caught:
        await client.read(5, 0, 4, ticket=make(cluster))
    assert caught.value.code == code


async def test_an_absent_chunk_and_another_spaces_cannot_be_told_apart(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, b"mine")
    answers = []
    for chunk in (5, 999):
        with pytest.raises(CloudVergeError) as caught:
            await client.read(chunk, 0, 4, ticket=cluster.ticket("read", space=8))
        answers.append((caught.value.code, caught.value.message, caught.value.retry_after_s))
    assert answers[0] == answers[1]


async def test_a_ticket_of_one_chunk_reads_that_chunk_and_one_of_the_space_all(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, b"five")
    await client.append(6, 0, b"six")
    assert (await client.read(5, 0, 4, ticket=cluster.ticket("read", 5, servers=(1, 2))))[1] == b"five"
    assert (await client.read(6, 0, 4, ticket=cluster.ticket("read")))[1] == b"six"


async def test_a_ticket_that_was_good_is_refused_once_it_has_expired(cluster):
    server = await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, b"mine")
    ticket = cluster.ticket("read")
    await client.read(5, 0, 4, ticket=ticket)
    server.rights._clock = lambda: time.time() + 70
    with pytest.raises(CloudVergeError) as caught:
        await client.read(5, 0, 4, ticket=ticket)
    assert caught.value.code == Code.UNAUTHORIZED


CONTROLS = {
    "seal": lambda ticket: (FrameType.REPLICA_SEAL, ReplicaSeal(ticket, 5, 9)),
    "stat": lambda ticket: (FrameType.REPLICA_STAT, ReplicaStat(ticket, (5,))),
    "delete": lambda ticket: (FrameType.REPLICA_DELETE, ReplicaDelete(ticket, (5,))),
    "verify": lambda ticket: (FrameType.REPLICA_VERIFY, ReplicaVerify(ticket, 5)),
    "fetch": lambda ticket: (FrameType.REPLICA_FETCH, ReplicaFetch(ticket, 5, 7, 1, 4, (Place(2, "h", 1),))),
}


@pytest.mark.parametrize("kind", CONTROLS)
async def test_control_is_for_who_has_a_control_ticket_of_this_chunk(cluster, kind):
    await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, b"mine")
    tickets = {
        "": Code.UNAUTHORIZED,
        cluster.ticket("append", 5): Code.FORBIDDEN,
        cluster.ticket("read"): Code.FORBIDDEN,
        cluster.ticket("control", 6): Code.FORBIDDEN,
    }
    for ticket, code in tickets.items():
        with pytest.raises(CloudVergeError) as caught:
            await client.call(*CONTROLS[kind](ticket))
        assert caught.value.code == code
    assert (await client.append(5, 4, b" still")).length == 10


@pytest.mark.parametrize("token", ["", "x.y.z"])
async def test_nobody_comes_in_without_a_token(cluster, token):
    await cluster.start(1)
    with pytest.raises(CloudVergeError) as caught:
        await cluster.client(1, token)
    assert caught.value.code == Code.UNAUTHORIZED


async def test_a_metaserver_frame_is_no_business_of_a_chunkserver(cluster):
    from cloudverge_protocol.messages import Tree

    await cluster.start(1)
    client = await cluster.client(1)
    with pytest.raises(CloudVergeError) as caught:
        await client.call(FrameType.TREE, Tree(7, 1))
    assert caught.value.code == Code.BAD_REQUEST


# --- coming in --------------------------------------------------------------------------------------------


HELLOS = {
    "to enter here": (lambda c: c.ticket("enter", servers=(1,)), True),
    "to read here": (lambda c: c.ticket("read", servers=(1,)), True),
    "to read one chunk here and elsewhere": (
        lambda c: c.ticket("read", 5, servers=(2, 1), ranges=((0, 5),)),
        True,
    ),
    "to append here": (lambda c: c.ticket("append", 5, servers=(1, 2)), True),
    "to read on another server": (lambda c: c.ticket("read", servers=(2,)), False),
    "to enter another server": (lambda c: c.ticket("enter", servers=(2,)), False),
    "to read on no server in particular": (lambda c: c.ticket("read"), False),
    "of control": (lambda c: c.ticket("control", servers=(1,)), False),
    "that has run out": (lambda c: c.ticket("read", servers=(1,), now_s=time.time() - 100), False),
    "of auth": (lambda c: c.identity(), False),
    "forged": (forged, False),
}


@pytest.mark.parametrize("kind", HELLOS)
async def test_who_comes_in_shows_a_ticket_for_this_very_server(cluster, kind):
    make, comes_in = HELLOS[kind]
    await cluster.start(1)
    if comes_in:
        await (await cluster.client(1, make(cluster))).append(5, 0, b"mine")
        return
    with pytest.raises(CloudVergeError) as caught:
        await cluster.client(1, make(cluster))
    assert (caught.value.code, caught.value.message) == (Code.UNAUTHORIZED, "a valid token is required")


async def test_a_ticket_to_enter_is_good_for_nothing_else(cluster):
    await cluster.start(1)
    enter = cluster.ticket("enter", servers=(1,))
    client = await cluster.client(1, enter)
    await client.append(5, 0, b"mine")
    for request in (client.read(5, 0, 4, ticket=enter), client.append(5, 4, b"more", ticket=enter)):
        with pytest.raises(CloudVergeError) as caught:
            await request
        assert caught.value.code == Code.FORBIDDEN


# --- ranges -----------------------------------------------------------------------------------------------


@pytest.fixture
async def ranged(cluster):
    """A reader of a chunk of two blocks and a half, by the ranges that it names."""
    await cluster.start(1)
    client = await cluster.client(1)
    content = bytes(n % 251 for n in range(5 * BLOCK_BYTES // 2))
    await client.append(5, 0, content)

    async def read(offset, length, *ranges):
        reply, body = await client.read(5, offset, length, ticket=cluster.ticket("read", 5, ranges=ranges))
        assert body == content[offset : offset + length]
        assert reply.crcs == tuple(piece_crcs(body, offset))
        return reply.start, len(body)

    return read


async def test_a_range_ticket_gives_exactly_what_was_asked_for_and_not_its_neighbours(ranged):
    assert await ranged(10, 5, (10, 5)) == (10, 5)
    assert await ranged(12, 2, (10, 5)) == (12, 2)
    assert await ranged(BLOCK_BYTES - 3, 6, (BLOCK_BYTES - 3, 6)) == (BLOCK_BYTES - 3, 6)
    assert await ranged(1, 2 * BLOCK_BYTES, (0, 3 * BLOCK_BYTES)) == (1, 2 * BLOCK_BYTES)
    assert await ranged(500, 5, (10, 5), (500, 5), (900, 5)) == (500, 5)


@pytest.mark.parametrize(
    ("offset", "length"), [(9, 5), (11, 5), (10, 6), (0, 100), (14, 2), (15, 1), (16, 0), (9, 0), (9, 1)]
)
async def test_one_byte_outside_its_ranges_is_as_if_the_chunk_were_not_there(ranged, cluster, offset, length):
    with pytest.raises(CloudVergeError) as outside:
        await ranged(offset, length, (10, 5), (100, 50))
    client = await cluster.client(1)
    with pytest.raises(CloudVergeError) as absent:
        await client.read(6, 10, 5, ticket=cluster.ticket("read", 6, ranges=((10, 5),)))
    assert outside.value.code == absent.value.code == Code.NO_CHUNK
    assert outside.value.message == absent.value.message


async def test_two_ranges_do_not_open_what_lies_between_them(ranged):
    with pytest.raises(CloudVergeError) as caught:
        await ranged(10, 20, (10, 5), (25, 5))
    assert caught.value.code == Code.NO_CHUNK


async def test_a_range_ticket_is_for_its_chunk_only(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    await client.append(6, 0, b"another")
    with pytest.raises(CloudVergeError) as caught:
        await client.read(6, 0, 3, ticket=cluster.ticket("read", 5, ranges=((0, 7),)))
    assert caught.value.code == Code.NO_CHUNK


async def test_nothing_of_a_range_is_asked_for_and_nothing_comes(cluster, ranged):
    client = await cluster.client(1)
    reply, body = await client.read(5, 12, 0, ticket=cluster.ticket("read", 5, ranges=((10, 5),)))
    assert (reply.crcs, body) == ((), b"")


async def test_a_range_that_reaches_across_the_end_gives_what_there_is(ranged):
    end = 5 * BLOCK_BYTES // 2
    assert await ranged(end - 5, 10, (0, 3 * BLOCK_BYTES)) == (end - 5, 5)
    assert await ranged(end + 5, 10, (0, 3 * BLOCK_BYTES)) == (end + 5, 0)


async def test_ranges_that_make_no_sense_give_nothing(ranged):
    for offset, length in ((-1, 5), (10, -1), (10, 1 << 40)):
        with pytest.raises(CloudVergeError) as caught:
            await ranged(offset, length, (-5, 20), (0, 1 << 50))
        assert caught.value.code in (Code.NO_CHUNK, Code.BAD_REQUEST)


# --- epochs that are over ---------------------------------------------------------------------------------


async def over(client, ticket) -> bool:
    """Whether a ticket is not believed any more."""
    try:
        await client.read(5, 0, 4, ticket=ticket)
    except CloudVergeError as error:
        if error.code != Code.UNAUTHORIZED:
            raise
        return True
    return False


def epochs(cluster, spaces, right="control"):
    ticket = cluster.ticket(right, servers=(1,), space=0 if right == "control" else 7, membership_epoch=9)
    return FrameType.EPOCHS, Epochs(ticket, tuple(spaces.items()))


async def test_tickets_of_an_epoch_that_is_over_are_refused_on_standing_connections(cluster):
    await cluster.start(1)
    client = await cluster.client(1, cluster.entry(1, membership_epoch=4))
    await client.append(5, 0, b"mine")
    old, new = (cluster.ticket("read", membership_epoch=epoch) for epoch in (3, 4))
    other = cluster.ticket("append", 6, space=8, membership_epoch=0)
    assert not await over(client, old)
    await client.call(*epochs(cluster, {7: 4}))
    assert await over(client, old)
    assert not await over(client, new)
    await client.append(6, 0, b"theirs", ticket=other)
    with pytest.raises(CloudVergeError) as caught:
        await client.append(5, 4, b"no", ticket=cluster.ticket("append", 5, membership_epoch=3))
    assert caught.value.code == Code.UNAUTHORIZED
    with pytest.raises(CloudVergeError):
        await cluster.client(1, cluster.entry(1, membership_epoch=3))


async def test_an_epoch_never_goes_back_and_only_the_metaserver_tells_it(cluster):
    await cluster.start(1)
    client = await cluster.client(1, cluster.entry(1, membership_epoch=9))
    await client.append(5, 0, b"mine")
    await client.call(*epochs(cluster, {7: 4}))
    await client.call(*epochs(cluster, {7: 2}))
    assert await over(client, cluster.ticket("read", membership_epoch=3))
    for right in ("read", "append", "enter"):
        with pytest.raises(CloudVergeError) as caught:
            await client.call(*epochs(cluster, {7: 8}, right))
        assert caught.value.code == Code.FORBIDDEN
    assert not await over(client, cluster.ticket("read", membership_epoch=4))


async def test_a_heartbeat_tells_it_too(cluster):
    server = await cluster.start(1)
    client = await cluster.client(1, cluster.entry(1, membership_epoch=4))
    await client.append(5, 0, b"mine")
    server.trust(server.home.membership, "", epochs={7: 4})
    assert await over(client, cluster.ticket("read", membership_epoch=3))
    assert not await over(client, cluster.ticket("read", membership_epoch=4))


def test_what_is_over_is_forgotten_when_every_ticket_of_before_has_run_out():
    now_s = 1000.0
    rights = Rights(lambda: now_s)
    rights.raise_floors([(7, 4)])
    rights.raise_floors([(7, 4), (8, 1)])
    assert set(rights._floors) == {7, 8}
    now_s += CHUNK_LIFE_S + LEEWAY_S
    rights.raise_floors([])
    assert set(rights._floors) == {7, 8}
    now_s += LEEWAY_S + 1
    rights.raise_floors([(9, 1)])
    assert set(rights._floors) == {9}
