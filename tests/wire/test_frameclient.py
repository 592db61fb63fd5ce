"""The client between servers: deadlines, lost connections, renewal of its token, back-pressure."""

import asyncio
import itertools

import pytest

from cloudverge_protocol import codec
from cloudverge_protocol.errors import Code, Denied, ProtocolFault, Unavailable
from cloudverge_protocol.frames import FrameReader, encode_frame
from cloudverge_protocol.ids import PROTOCOL_VERSION
from cloudverge_protocol.messages import Append, Empty, FrameType, Hello, HelloReply, Read, ReadReply
from cloudverge_wire import frameclient
from cloudverge_wire.frameclient import FrameClient

pytestmark = pytest.mark.anyio

READ = Read("", 1, 0, 0)


def forget(future):
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


async def never():
    await asyncio.sleep(3600)


async def test_a_refused_hello_is_the_error_of_connect(frames):
    server = await frames.serve(lambda *_: (Empty(), ()))
    with pytest.raises(Denied) as caught:
        await frames.client(server, "bad")
    assert caught.value.code == Code.UNAUTHORIZED


async def test_connect_says_who_it_met(frames):
    client = await frames.client(await frames.serve(lambda *_: (Empty(), ())))
    assert client.server is not None
    assert client.server.cluster == "c" * 32


async def test_nobody_there_is_unreachable(frames):
    server = await frames.serve(lambda *_: (Empty(), ()))
    await server.close()
    with pytest.raises(Unavailable) as caught:
        await frames.client(server)
    assert caught.value.code == Code.UNREACHABLE


async def test_a_call_without_an_answer_times_out_and_others_go_on(frames):
    def handle(peer, kind, message, body):
        return never() if message.offset else (ReadReply(0, ()), ())

    client = await frames.client(await frames.serve(handle))
    long = forget(client.begin(FrameType.READ, Read("", 1, 1, 0), timeout_s=60))
    with pytest.raises(Unavailable) as caught:
        await client.call(FrameType.READ, Read("", 1, 1, 0), timeout_s=0.05)
    assert caught.value.code == Code.TIMEOUT
    assert (await client.call(FrameType.READ, READ))[0] == ReadReply(0, ())
    assert not long.done()


async def test_a_late_answer_disturbs_nobody(frames):
    def handle(peer, kind, message, body):
        async def late():
            await asyncio.sleep(0.1)
            return ReadReply(1, ()), ()

        return late() if message.offset else (ReadReply(0, ()), ())

    client = await frames.client(await frames.serve(handle))
    with pytest.raises(Unavailable):
        await client.call(FrameType.READ, Read("", 1, 1, 0), timeout_s=0.05)
    await asyncio.sleep(0.1)
    assert (await client.call(FrameType.READ, READ))[0] == ReadReply(0, ())


async def test_a_lost_connection_fails_all_calls_and_stays_lost(frames):
    server = await frames.serve(lambda *_: never())
    client = await frames.client(server)
    calls = [client.begin(FrameType.READ, READ) for _ in range(3)]
    await asyncio.sleep(0.05)
    for peer in list(server.peers):
        peer.close()
    for call in calls:
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.code == Code.UNREACHABLE
    assert client.closed
    with pytest.raises(Unavailable):
        await client.call(FrameType.READ, READ)


async def test_a_server_that_sends_garbage_is_left(frames):
    async def rude(reader, writer):
        frames_in = FrameReader()
        while not (got := frames_in.feed(await reader.read(4096))):
            pass
        reply = HelloReply(PROTOCOL_VERSION, "c", "h", "rude", 0)
        writer.write(codec.encode_reply(FrameType.HELLO, got[0].request_id, reply))
        await reader.read(4096)
        writer.write(b"?" * 100)
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(rude, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    client = await FrameClient.connect("127.0.0.1", port, lambda: Hello(PROTOCOL_VERSION, "t"))
    with pytest.raises(Unavailable, match="garbage"):
        await client.call(FrameType.READ, READ)
    assert client.closed
    listener.close()


async def test_an_answer_that_does_not_decode_fails_its_call_alone(frames):
    def handle(peer, kind, message, body):
        peer._transport.write(encode_frame(kind, 2, b"\xc1", 0, 1))

    client = await frames.client(await frames.serve(handle))
    with pytest.raises(ProtocolFault):
        await client.call(FrameType.READ, READ)
    assert await client.call(FrameType.PING, Empty()) == (Empty(), b"")


async def test_the_token_is_renewed_ahead_of_a_request(frames, monkeypatch):
    tokens = itertools.count(1)
    seen = []

    def handle(peer, kind, message, body):
        seen.append(peer.identity.token)
        return ReadReply(0, ()), ()

    server = await frames.serve(handle)
    client = await FrameClient.connect(
        "127.0.0.1", server.port, lambda: Hello(PROTOCOL_VERSION, f"good {next(tokens)}")
    )
    await client.call(FrameType.READ, READ)
    monkeypatch.setattr(frameclient, "RENEW_S", -1.0)
    await client.call(FrameType.READ, READ)
    monkeypatch.undo()
    await client.call(FrameType.READ, READ)
    client.close()
    assert seen == ["good 1", "good 2", "good 2"]


async def test_a_message_too_large_for_a_frame_is_refused_before_it_is_sent(frames):
    client = await frames.client(await frames.serve(lambda *_: (Empty(), ())))
    with pytest.raises(ProtocolFault):
        await client.call(FrameType.APPEND, Append("", 1, 1, 0, (), False), (bytes(9 << 20),))
    assert await client.call(FrameType.PING, Empty()) == (Empty(), b"")


async def test_a_server_that_takes_nothing_holds_its_callers_back(frames, monkeypatch):
    monkeypatch.setattr(frameclient, "WRITE_MAX_BYTES", 64 << 20)
    server = await frames.serve(lambda *_: never())
    client = await frames.client(server)
    append = Append("", 1, 1, 0, (), False)
    body = bytes(4 << 20)
    calls = [forget(client.begin(FrameType.APPEND, append, (body,))) for _ in range(40)]
    refused = [call for call in calls if call.done() and call.exception().code == Code.UNAVAILABLE]
    assert refused
    with pytest.raises(Unavailable, match="takes no more"):
        await client.drained(timeout_s=0.1)


async def test_closing_wakes_who_waits_to_send(frames):
    client = await frames.client(await frames.serve(lambda *_: never()))
    for _ in range(30):
        forget(client.begin(FrameType.APPEND, Append("", 1, 1, 0, (), False), (bytes(4 << 20),)))
    waiting = asyncio.ensure_future(client.call(FrameType.PING, Empty()))
    await asyncio.sleep(0.05)
    client.close()
    with pytest.raises(Unavailable):
        await waiting
