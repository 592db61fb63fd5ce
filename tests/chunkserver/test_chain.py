"""Appends along a chain of real servers, and what the writer learns when one of them fails."""

import asyncio
import os
import socket

import pytest

from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.ids import BLOCK_BYTES
from cloudverge_protocol.messages import FrameType, Place
from cloudverge_protocol.receipts import receipt_is_genuine

pytestmark = pytest.mark.anyio

DATA = os.urandom(5 * BLOCK_BYTES + 77)


@pytest.fixture
def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("servers", [2, 3])
async def test_an_append_reaches_every_server_and_brings_all_receipts(cluster, servers):
    numbers = range(1, servers + 1)
    for number in numbers:
        await cluster.start(number)
    head = await cluster.client(1)
    onward = tuple(cluster.place(number) for number in numbers[1:])
    await head.append(5, 0, DATA[:100_000], onward=onward)
    reply = await head.append(5, 100_000, DATA[100_000:], onward=onward, sync=True)
    assert (reply.length, reply.failed) == (len(DATA), 0)
    assert [receipt.server for receipt in reply.receipts] == list(numbers)
    for receipt in reply.receipts:
        assert receipt_is_genuine(cluster.servers[receipt.server].home.receipt_key, receipt)
        assert receipt.length == len(DATA)
    for number in numbers:
        assert (await (await cluster.client(number)).read(5, 0, len(DATA)))[1] == DATA


async def test_pipelined_appends_keep_their_order_along_the_chain(cluster):
    for number in (1, 2):
        await cluster.start(number)
    head = await cluster.client(1)
    answers = []
    for offset in range(0, len(DATA), 3000):
        piece = DATA[offset : offset + 3000]
        message = head.append_message(5, offset, piece, onward=(cluster.place(2),))
        answers.append(head.raw.begin(FrameType.APPEND, message, (piece,)))
    replies = [reply for reply, _ in await asyncio.gather(*answers)]
    assert not any(reply.failed for reply in replies)
    assert (await (await cluster.client(2)).read(5, 0, len(DATA)))[1] == DATA


async def test_a_dead_server_is_named_and_the_others_receipts_come_through(cluster, closed_port):
    for number in (1, 2):
        await cluster.start(number)
    head = await cluster.client(1)
    onward = (cluster.place(2), Place(3, "127.0.0.1", closed_port))
    reply = await head.append(5, 0, DATA, onward=onward, sync=True)
    assert (reply.failed, reply.code) == (3, Code.UNREACHABLE)
    assert [receipt.server for receipt in reply.receipts] == [1, 2]
    reply = await head.append(6, 0, DATA, onward=onward[1:], sync=True)
    assert (reply.failed, reply.code, len(reply.receipts)) == (3, Code.UNREACHABLE, 1)


async def test_a_server_that_does_not_answer_costs_a_bounded_wait(cluster, monkeypatch):
    monkeypatch.setattr("cloudverge_chunkserver.links.CONNECT_S", 0.3)
    await cluster.start(1)
    head = await cluster.client(1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = Place(2, "127.0.0.1", silent.getsockname()[1])
        reply = await asyncio.wait_for(head.append(5, 0, DATA, onward=(place,), sync=True), 5)
    assert (reply.failed, reply.code) == (2, Code.TIMEOUT)
    assert len(reply.receipts) == 1


async def test_a_server_that_restarts_is_reached_again(cluster):
    for number in (1, 2):
        await cluster.start(number)
    head = await cluster.client(1)
    await head.append(5, 0, DATA[:1000], onward=(cluster.place(2),))
    port = cluster.servers[2].port
    await cluster.stop(2)
    reply = await head.append(5, 1000, DATA[1000:2000], onward=(Place(2, "127.0.0.1", port),))
    assert reply.failed == 2
    await cluster.start(2)
    reply = await head.append(5, 2000, DATA[2000:3000], onward=(cluster.place(2),))
    assert (reply.failed, reply.code) == (2, Code.GAP)
    reply = await head.append(5, 1000, DATA[1000:3000], onward=(cluster.place(2),), sync=True)
    assert (reply.failed, reply.length, len(reply.receipts)) == (0, 3000, 2)


async def test_a_refusal_down_the_chain_is_told_with_its_code(cluster):
    for number in (1, 2):
        await cluster.start(number)
    tail = await cluster.client(2)
    await tail.append(5, 0, b"other bytes")
    head = await cluster.client(1)
    reply = await head.append(5, 0, DATA, onward=(cluster.place(2),), sync=True)
    assert (reply.failed, reply.code) == (2, Code.CONFLICT)
    assert [receipt.server for receipt in reply.receipts] == [1]
    assert (await tail.read(5, 0, 100))[1] == b"other bytes"


async def test_what_the_head_refuses_is_not_sent_on(cluster):
    for number in (1, 2):
        await cluster.start(number)
    head = await cluster.client(1)
    for bad in ({"crcs": (1,)}, {"epoch": 1, "ticket": ""}):
        with pytest.raises(CloudVergeError):
            await head.append(5, 0, b"abc", onward=(cluster.place(2),), **bad)
    assert cluster.servers[2].store.find(5) is None


async def test_a_mount_cannot_send_a_server_to_a_machine_that_is_none_of_the_clusters(cluster):
    for number in (1, 2):
        await cluster.start(number)
    head = await cluster.client(1)
    cluster.servers[1].links.hosts = {2: "127.0.0.1"}
    await head.append(5, 0, b"abc", onward=(cluster.place(2),))
    for place in (Place(2, "localhost", cluster.place(2).port), Place(3, "localhost", 1)):
        with pytest.raises(CloudVergeError) as caught:
            await head.append(6, 0, b"abc", onward=(place,))
        assert caught.value.code == Code.FORBIDDEN
    assert cluster.servers[1].store.find(6) is None


async def test_an_append_goes_on_to_no_place_that_its_ticket_does_not_name(cluster):
    for number in (1, 2):
        await cluster.start(number)
    caught: list[object] = []
    trap = await asyncio.start_server(lambda *streams: caught.append(streams[1].close()), "127.0.0.1", 0)
    port = trap.sockets[0].getsockname()[1]
    second = cluster.place(2)
    ticket = cluster.ticket("append", 5, places=((2, second.host, second.port),))
    head = await cluster.client(1)
    async with trap:
        for elsewhere in (
            Place(2, "127.0.0.1", port),
            Place(3, "127.0.0.1", port),
            Place(3, "127.0.0.1", second.port),
        ):
            for onward in ((elsewhere,), (second, elsewhere)):
                with pytest.raises(CloudVergeError) as refused:
                    await head.append(5, 0, b"abc", onward=onward, ticket=ticket)
                assert refused.value.code == Code.FORBIDDEN
        await asyncio.sleep(0.1)
    assert caught == []
    assert cluster.servers[1].store.find(5) is None
    await head.append(5, 0, b"abc", onward=(second,), ticket=ticket)
