"""Append on one real server: explicit offsets, overlaps, checksums, syncs and receipts."""

import asyncio
import os

import pytest

from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.ids import BLOCK_BYTES
from cloudverge_protocol.messages import FrameType
from cloudverge_protocol.receipts import receipt_is_genuine

pytestmark = pytest.mark.anyio

DATA = os.urandom(3 * BLOCK_BYTES + 1000)


async def refused(call, *codes: Code) -> CloudVergeError:
    with pytest.raises(CloudVergeError) as caught:
        await call
    assert caught.value.code in codes
    return caught.value


async def test_appended_bytes_are_read_back_as_whole_blocks_with_their_checksums(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    assert (await client.append(5, 0, DATA[:100_000])).length == 100_000
    assert (await client.append(5, 100_000, DATA[100_000:])).length == len(DATA)
    reply, body = await client.read(5, BLOCK_BYTES + 5, 10)
    assert (reply.start, body) == (BLOCK_BYTES, DATA[BLOCK_BYTES : 2 * BLOCK_BYTES])
    reply, body = await client.read(5, 0, 4 << 20)
    assert body == DATA
    assert len(reply.crcs) == 4


async def test_a_read_past_the_end_gives_what_there_is(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, DATA)
    reply, body = await client.read(5, 3 * BLOCK_BYTES, 4 << 20)
    assert body == DATA[3 * BLOCK_BYTES :]
    reply, body = await client.read(5, 10 * BLOCK_BYTES, 100)
    assert (body, reply.crcs) == (b"", ())


async def test_a_gap_is_refused_and_nothing_is_made_of_it(cluster):
    server = await cluster.start(1)
    client = await cluster.client(1)
    await refused(client.append(5, 10, b"x"), Code.GAP)
    assert server.store.find(5) is None
    await client.append(5, 0, b"0123456789")
    await refused(client.append(5, 11, b"x"), Code.GAP)


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 10), (0, 100_000), (70_000, 1000), (65_536, 34_464), (99_999, 1)]
)
async def test_bytes_sent_again_are_compared_and_change_nothing(cluster, offset, size):
    await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, DATA[:100_000])
    assert (await client.append(5, offset, DATA[offset : offset + size])).length == 100_000


async def test_an_overlap_with_equal_bytes_writes_the_rest(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, DATA[:100_000])
    assert (await client.append(5, 60_000, DATA[60_000:])).length == len(DATA)
    assert (await client.read(5, 0, len(DATA)))[1] == DATA


async def test_different_bytes_are_a_conflict_and_close_the_chunk_at_what_was_acknowledged(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, DATA[:1000])
    await refused(client.append(5, 500, b"other bytes than before"), Code.CONFLICT)
    await refused(client.append(5, 1000, DATA[1000:2000]), Code.SEALED)
    assert (await client.read(5, 0, 4096))[1] == DATA[:1000]
    await cluster.stop(1)
    await cluster.start(1)
    client = await cluster.client(1)
    await refused(client.append(5, 1000, DATA[1000:2000]), Code.SEALED)


async def test_a_chunk_never_grows_past_the_limit_of_its_ticket(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    ticket = cluster.ticket("append", 5, limit=1000)
    await refused(client.append(5, 0, DATA[:1001], ticket=ticket), Code.CHUNK_FULL)
    await client.append(5, 0, DATA[:1000], ticket=ticket)
    await refused(client.append(5, 1000, b"x", ticket=ticket), Code.CHUNK_FULL)


async def test_bytes_that_do_not_match_their_checksums_are_not_taken(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    await refused(client.append(5, 0, b"abc", crcs=(1,)), Code.BAD_CHECKSUM)
    await refused(client.append(5, 0, b"abc", crcs=()), Code.BAD_CHECKSUM)
    await client.append(5, 0, b"abc")
    await refused(client.append(5, 3, b"abc", crcs=(1,)), Code.BAD_CHECKSUM)
    assert (await client.read(5, 0, 10))[1] == b"abc"


async def test_a_sync_brings_a_receipt_of_this_server(cluster):
    server = await cluster.start(1)
    client = await cluster.client(1)
    assert (await client.append(5, 0, DATA)).receipts == ()
    reply = await client.append(5, len(DATA), b"tail", sync=True)
    (receipt,) = reply.receipts
    assert (receipt.server, receipt.chunk, receipt.epoch, receipt.length) == (1, 5, 1, len(DATA) + 4)
    assert receipt_is_genuine(server.home.receipt_key, receipt)


async def test_a_sync_is_honoured_when_nothing_is_new(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, DATA)
    for data in (DATA[100:200], b""):
        (receipt,) = (await client.append(5, 100 if data else len(DATA), data, sync=True)).receipts
        assert receipt.length == len(DATA)


async def test_pipelined_appends_are_written_in_the_order_they_were_sent(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    answers = []
    for offset in range(0, len(DATA), 5000):
        piece = DATA[offset : offset + 5000]
        message = client.append_message(5, offset, piece, sync=offset % 3 == 0)
        answers.append(client.raw.begin(FrameType.APPEND, message, (piece,)))
    replies = await asyncio.gather(*answers)
    assert replies[-1][0].length == len(DATA)
    assert (await client.read(5, 0, len(DATA)))[1] == DATA


async def test_syncs_of_one_chunk_share_an_fdatasync(cluster):
    server = await cluster.start(1)
    server.store.disk.in_memory = False
    synced = []
    sync = server.store.disk.sync
    server.store.disk.sync = lambda *args: (synced.append(args), sync(*args))
    client = await cluster.client(1)
    answers = [
        client.raw.begin(FrameType.APPEND, client.append_message(5, at, b"x", sync=True), (b"x",))
        for at in range(100)
    ]
    replies = await asyncio.gather(*answers)
    assert all(reply.receipts[0].length > at for at, (reply, _) in enumerate(replies))
    assert 1 <= len(synced) < 50


async def test_acknowledged_bytes_outlive_a_restart_and_the_writer_goes_on(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, DATA[:70_000], sync=True)
    await client.append(5, 70_000, DATA[70_000:80_000])
    await cluster.stop(1)
    await cluster.start(1)
    client = await cluster.client(1)
    assert (await client.append(5, 80_000, DATA[80_000:], sync=True)).length == len(DATA)
    assert (await client.read(5, 0, len(DATA)))[1] == DATA


async def test_a_malformed_request_costs_an_error_and_no_more(cluster):
    await cluster.start(1)
    client = await cluster.client(1)
    await refused(client.append(5, -1, b"x", crcs=(1,)), Code.BAD_REQUEST)
    await refused(client.read(5, 0, (4 << 20) + 1), Code.BAD_REQUEST, Code.NO_CHUNK)
    await client.append(5, 0, b"x")
    await refused(client.read(5, 0, (4 << 20) + 1), Code.BAD_REQUEST)
    await refused(client.read(5, -1, 10), Code.BAD_REQUEST)
