"""Who may do what: each request is checked for this chunk, space, epoch and server."""

import time

import pytest

from cloudverge_auth.keys import SigningKey
from cloudverge_auth.tokens import ChunkTicket, sign_chunk
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.messages import (
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
