"""Requests on a frame connection: order, overtaking, errors, limits, slow callers, stopping."""

import asyncio
import random
import struct

import pytest

from cloudverge_protocol import codec
from cloudverge_protocol.checksum import crc32c
from cloudverge_protocol.errors import ChunkFault, Code, Denied, ProtocolFault, Unavailable
from cloudverge_protocol.frames import encode_frame
from cloudverge_protocol.messages import Append, AppendReply, Empty, FrameType, Read, ReadReply
from cloudverge_wire.flow import IN_FLIGHT, IN_FLIGHT_BYTES, WRITE_HIGH_BYTES, Callers, Shares

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


def read(offset=0, length=0):
    return Read("ticket", 1, offset, length)


def read_frame(request_id, offset=0, length=0):
    return codec.encode_request(FrameType.READ, request_id, read(offset, length))


async def test_ping_is_answered_without_the_handler(frames):
    client = await frames.client(await frames.serve(lambda *_: 1 / 0))
    assert await client.call(FrameType.PING, Empty()) == (Empty(), b"")


async def test_a_large_body_arrives_whole_and_goes_back_whole(frames):
    def handle(peer, kind, message, body):
        return AppendReply(len(body)), (body[:MIB], body[MIB:])

    client = await frames.client(await frames.serve(handle))
    data = bytes(range(256)) * (4 * MIB // 256) + b"tail"
    reply, back = await client.call(
        FrameType.APPEND, Append("", 1, 1, 0, (), False), (data[:100], data[100:])
    )
    assert reply == AppendReply(len(data))
    assert back == data


async def test_a_quick_answer_overtakes_a_slow_one(frames):
    release = asyncio.Event()

    async def slow():
        await release.wait()
        return ReadReply(0, (0,)), ()

    def handle(peer, kind, message, body):
        return slow() if message.offset == 0 else (ReadReply(1, ()), ())

    client = await frames.client(await frames.serve(handle))
    first = client.begin(FrameType.READ, read(0))
    second, _ = await client.call(FrameType.READ, read(1))
    assert second == ReadReply(1, ())
    assert not first.done()
    release.set()
    assert (await first)[0] == ReadReply(0, (0,))


async def test_the_handler_is_called_in_arrival_order(frames):
    seen = []

    def handle(peer, kind, message, body):
        seen.append(message.offset)

        async def later():
            await asyncio.sleep(0.001 * (message.offset % 3))
            return ReadReply(0, ()), ()

        return later() if message.offset % 2 else (ReadReply(0, ()), ())

    client = await frames.client(await frames.serve(handle))
    await asyncio.gather(
        *(client.begin(FrameType.READ, read(n)) for n in range(300)),
        *(client.begin(FrameType.PING, Empty()) for _ in range(10)),
    )
    assert seen == list(range(300))


async def test_a_handler_may_return_a_future_or_reply_by_itself(frames):
    future = asyncio.get_running_loop().create_future()

    def handle(peer, kind, message, body):
        if message.offset:
            return future
        peer.reply(kind, 2, ReadReply(5, ()))
        future.set_result((ReadReply(6, ()), ()))
        return None

    client = await frames.client(await frames.serve(handle))
    pair = await asyncio.gather(client.begin(FrameType.READ, read(0)), client.begin(FrameType.READ, read(1)))
    assert [reply.start for reply, _ in pair] == [5, 6]


async def test_an_error_of_ours_reaches_the_caller_with_its_hint(frames):
    def handle(peer, kind, message, body):
        async def later():
            raise ChunkFault(Code.NO_CHUNK, "no such chunk here")

        if message.offset:
            return later()
        error = Denied(Code.FORBIDDEN, "not yours")
        error.retry_after_s = 2.5
        raise error

    client = await frames.client(await frames.serve(handle))
    with pytest.raises(Denied, match="not yours") as caught:
        await client.call(FrameType.READ, read(0))
    assert caught.value.retry_after_s == 2.5
    with pytest.raises(ChunkFault, match="no such chunk here"):
        await client.call(FrameType.READ, read(1))


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_any_other_exception_is_internal_and_tells_nothing(frames, when, capsys):
    def handle(peer, kind, message, body):
        async def later():
            raise RuntimeError("password of the database")

        if when == "at once":
            raise RuntimeError("password of the database")
        return later()

    client = await frames.client(await frames.serve(handle))
    with pytest.raises(Unavailable) as caught:
        await client.call(FrameType.READ, read())
    assert caught.value.code == Code.INTERNAL
    assert "password" not in caught.value.message
    assert await client.call(FrameType.PING, Empty()) == (Empty(), b"")


async def test_an_answer_too_large_for_a_frame_is_internal_for_that_request_alone(frames, capsys):
    client = await frames.client(await frames.serve(lambda *_: (ReadReply(0, ()), (bytes(9 * MIB),))))
    with pytest.raises(ProtocolFault):
        await client.call(FrameType.READ, read())
    assert await client.call(FrameType.PING, Empty()) == (Empty(), b"")


async def test_malformed_and_unknown_requests_are_refused_one_by_one(frames):
    caller = await frames.raw(await frames.serve(lambda *_: (Empty(), ())))
    await caller.greet()
    await caller.send(encode_frame(FrameType.READ, 2, b"\xc1"), encode_frame(999, 3, codec.encode(Empty())))
    for request_id in (2, 3):
        frame = await caller.frame()
        assert frame.request_id == request_id
        assert codec.decode_reply(FrameType.READ, frame).code == Code.BAD_REQUEST
    await caller.send(codec.encode_request(FrameType.PING, 4, Empty()))
    assert (await caller.frame()).request_id == 4


@pytest.mark.parametrize("garbage", [b"\0" * 24, b"\xff" * 24], ids=["zeroes", "ones"])
async def test_lost_framing_gets_one_error_and_the_end(frames, garbage):
    caller = await frames.raw(await frames.serve(lambda *_: (Empty(), ())))
    await caller.greet()
    await caller.send(garbage * 100)
    assert (await caller.error()).code == Code.BAD_FRAME
    assert await caller.frame() is None


async def test_a_frame_over_the_limit_is_refused_before_its_bytes_come(frames):
    caller = await frames.raw(await frames.serve(lambda *_: (Empty(), ())))
    await caller.greet()
    fixed = struct.pack("<HHIIII", FrameType.APPEND, 0, 5, 10, 2**31, 0)
    await caller.send(fixed, struct.pack("<I", crc32c(fixed)))
    assert (await caller.error()).code == Code.BAD_FRAME


async def test_no_more_than_the_limit_of_requests_is_under_way(frames):
    running, most, release = 0, 0, asyncio.Event()

    def handle(peer, kind, message, body):
        async def work():
            nonlocal running, most
            running += 1
            most = max(most, running)
            await release.wait()
            running -= 1
            return ReadReply(0, ()), ()

        return work()

    client = await frames.client(await frames.serve(handle))
    calls = [client.begin(FrameType.READ, read()) for _ in range(3 * IN_FLIGHT)]
    await asyncio.sleep(0.1)
    assert most == IN_FLIGHT
    release.set()
    assert len(await asyncio.gather(*calls)) == 3 * IN_FLIGHT
    assert most == IN_FLIGHT


async def test_a_slow_reader_is_waited_for_within_bounds(frames):
    produced = 0

    def handle(peer, kind, message, body):
        async def work():
            nonlocal produced
            produced += message.length
            return ReadReply(0, ()), (bytes(message.length),)

        return work()

    caller = await frames.raw(await frames.serve(handle))
    await caller.greet()
    count = 200
    sender = asyncio.ensure_future(caller.send(b"".join(read_frame(n, 0, MIB) for n in range(2, count + 2))))
    await asyncio.sleep(0.3)
    socket_buffers = 16 * MIB
    assert produced <= IN_FLIGHT_BYTES + WRITE_HIGH_BYTES + socket_buffers + MIB
    received = sorted([(await caller.frame()).request_id for _ in range(count)])
    await sender
    assert received == list(range(2, count + 2))
    assert produced == count * MIB


async def test_drained_waits_for_a_slow_reader(frames):
    waited = asyncio.Event()

    def handle(peer, kind, message, body):
        async def stream():
            for number in range(40):
                peer.reply(kind, number, ReadReply(number, ()), (bytes(MIB),))
                await peer.drained()
            waited.set()
            return Empty(), ()

        return stream()

    caller = await frames.raw(await frames.serve(handle))
    await caller.greet()
    await caller.send(read_frame(2))
    await asyncio.sleep(0.2)
    assert not waited.is_set()
    for _ in range(41):
        await caller.frame()
    assert waited.is_set()


async def test_a_caller_that_takes_nothing_is_cut_off(frames, monkeypatch, capsys):
    monkeypatch.setattr("cloudverge_wire.peer.STALL_S", 0.1)
    server = await frames.serve(lambda *_: (ReadReply(0, ()), (bytes(4 * MIB),)))
    caller = await frames.raw(server)
    await caller.greet()
    await caller.send(b"".join(read_frame(n, 0, 4 * MIB) for n in range(2, 30)))
    await asyncio.sleep(1)
    assert not server.peers


async def test_a_request_of_a_lost_connection_runs_to_its_end(frames):
    started, finished = asyncio.Event(), asyncio.Event()

    def handle(peer, kind, message, body):
        async def work():
            started.set()
            await asyncio.sleep(0.1)
            finished.set()
            return Empty(), ()

        return work()

    client = await frames.client(await frames.serve(handle))
    client.begin(FrameType.READ, read()).add_done_callback(lambda done: done.exception())
    await started.wait()
    client.close()
    async with asyncio.timeout(5):
        await finished.wait()


async def test_a_stopping_server_answers_what_is_under_way(frames):
    def handle(peer, kind, message, body):
        async def work():
            await asyncio.sleep(message.offset / 1000)
            return ReadReply(message.offset, ()), ()

        return work()

    server = await frames.serve(handle)
    client = await frames.client(server)
    quick, slow = client.begin(FrameType.READ, read(50)), client.begin(FrameType.READ, read(60_000))
    await asyncio.sleep(0.02)
    await server.close(grace_s=0.3)
    assert (await quick)[0] == ReadReply(50, ())
    with pytest.raises(Unavailable, match="stopping"):
        await slow
    assert client.closed
    with pytest.raises(Unavailable):
        await frames.client(server, timeout_s=1)


@pytest.mark.parametrize("seed", range(5))
async def test_damaged_frames_get_errors_and_never_take_the_server_down(frames, seed):
    chance = random.Random(seed)

    def handle(peer, kind, message, body):
        return ReadReply(0, ()), (body,)

    server = await frames.serve(handle)
    for _ in range(40):
        caller = await frames.raw(server)
        await caller.greet()
        stream = bytearray(b"".join(read_frame(n, n, 100) for n in range(2, 8)))
        for _ in range(chance.randrange(1, 4)):
            stream[chance.randrange(len(stream))] ^= 1 << chance.randrange(8)
        await caller.send(bytes(stream[: chance.randrange(len(stream))]))
        caller.writer.write_eof()
        while await caller.frame() is not None:
            pass
    assert await (await frames.client(server)).call(FrameType.PING, Empty()) == (Empty(), b"")


async def test_a_full_server_turns_callers_away(frames, monkeypatch):
    monkeypatch.setattr("cloudverge_wire.frameserver.MAX_CONNECTIONS", 2)
    server = await frames.serve(lambda *_: (ReadReply(0, ()), ()))
    first, _ = await frames.client(server), await frames.client(server)
    with pytest.raises(Unavailable):
        await frames.client(server)
    assert await first.call(FrameType.PING, Empty()) == (Empty(), b"")


async def test_a_caller_has_so_many_connections_and_leaves_room_for_others(frames):
    callers = Callers(lambda identity: None if identity.token == "good-server" else identity.token, 2)
    server = await frames.serve(lambda *_: (ReadReply(0, ()), ()), callers=callers)
    greedy = [await frames.client(server, "good-greedy") for _ in range(2)]
    for _ in range(3):
        caller = await frames.raw(server)
        refusal = await caller.greet("good-greedy")
        assert (refusal.code, "2 connections" in refusal.message) == (Code.UNAVAILABLE, True)
        assert await caller.frame() is None
    await frames.client(server, "good-modest")
    for _ in range(5):
        await frames.client(server, "good-server")
    greedy[0].close()
    async with asyncio.timeout(5):
        while callers._connections["good-greedy"] > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await frames.client(server, "good-greedy")


def test_a_connection_that_becomes_anothers_counts_once():
    callers = Callers(lambda identity: identity, 1)
    first = callers.enter("ann", None)
    assert callers.enter("ann", first) == "ann"
    with pytest.raises(Unavailable):
        callers.enter("ann", None)
    assert callers.enter("bob", first) == "bob"
    assert callers.enter("ann", None) == "ann"
    callers.leave("ann")
    callers.leave("bob")
    callers.leave(None)
    assert not callers._connections


async def test_connections_of_one_caller_share_what_may_be_under_way(frames):
    running, release = [], asyncio.Event()

    def handle(peer, kind, message, body):
        async def work():
            running.append(peer.identity.token)
            await release.wait()
            return AppendReply(len(body)), ()

        return work()

    server = await frames.serve(handle, shares=Shares(lambda identity: identity.token, 2 * MIB))
    greedy = [await frames.client(server, "good-greedy") for _ in range(4)]
    append = Append("", 1, 1, 0, (), False)
    calls = [each.begin(FrameType.APPEND, append, (bytes(MIB),)) for each in greedy for _ in range(3)]
    await asyncio.sleep(0.2)
    assert 2 <= len(running) <= 3
    modest = await frames.client(server, "good-modest")
    one = modest.begin(FrameType.APPEND, append, (bytes(MIB),))
    await asyncio.sleep(0.1)
    assert running.count("good-modest") == 1
    greedy[0].close()  # what it had under way ends, what it had not sent yet is nobody's loss
    release.set()
    assert len(await asyncio.gather(*calls[3:], one)) == 10
    await asyncio.gather(*calls[:3], return_exceptions=True)


async def test_a_server_may_take_shorter_requests_than_others(frames):
    server = await frames.serve(lambda *_: (AppendReply(1), ()), frame_bytes=MIB)
    caller = await frames.raw(server)
    await caller.greet()
    append = Append("", 1, 1, 0, (), False)
    short, long = MIB - 100, MIB + 1
    await caller.send(codec.encode_request(FrameType.APPEND, 1, append, short), bytes(short))
    assert (await caller.frame()).request_id == 1
    await caller.send(codec.encode_request(FrameType.APPEND, 2, append, long), bytes(MIB // 2))
    assert (await caller.error()).code == Code.BAD_FRAME
    assert await caller.frame() is None
