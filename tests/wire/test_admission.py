"""Who gets in at a frame port, and what the others learn."""

import asyncio

import pytest

from cloudverge_protocol import codec
from cloudverge_protocol.errors import Code, Unavailable
from cloudverge_protocol.frames import PREFIX_BYTES, encode_frame
from cloudverge_protocol.ids import PROTOCOL_VERSION
from cloudverge_protocol.messages import Empty, ErrorReply, FrameType, Hello, HelloReply, Ids, Read
from cloudverge_wire import admission

pytestmark = pytest.mark.anyio

REFUSAL = ErrorReply(Code.UNAUTHORIZED, "a valid token is required")


def never(*_):
    raise AssertionError("a stranger's request reached the handler")


def hello(token="good", version=PROTOCOL_VERSION, **fields):
    return codec.encode_request(FrameType.HELLO, 1, Hello(version, token, **fields))


async def expect_refusal(caller):
    assert await caller.error() == REFUSAL
    assert await caller.frame() is None


@pytest.mark.parametrize("kind", list(FrameType))
async def test_any_first_frame_but_hello_is_refused_alike(frames, kind):
    caller = await frames.raw(await frames.serve(never))
    await caller.send(encode_frame(kind, 7, b"\xc1 not msgpack"))
    await expect_refusal(caller)


FIRST_BYTES = {
    "no frame": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20,
    "zeroes": bytes(100),
    "a malformed HELLO": encode_frame(FrameType.HELLO, 1, b"\xc1"),
    "a HELLO of the wrong shape": encode_frame(FrameType.HELLO, 1, codec.encode([1, 2, 3])),
    "a HELLO with a body": encode_frame(FrameType.HELLO, 1, codec.encode([1, "good"]), 4) + b"body",
    "a HELLO announced to be huge": encode_frame(FrameType.HELLO, 1, b"x" * (1 << 20))[: PREFIX_BYTES + 10],
    "a HELLO whose header fails its checksum": hello()[:-1] + b"?",
    "a bad token": hello("bad"),
    "an empty token": hello(""),
    "a bad token that knows another cluster": hello("bad", cluster="x", history="y"),
    "an unknown type": encode_frame(999, 1, b""),
    "a reply": encode_frame(FrameType.HELLO, 1, codec.encode(Empty()), 0, 1),
}


@pytest.mark.parametrize("first", FIRST_BYTES.values(), ids=FIRST_BYTES.keys())
async def test_a_caller_without_a_token_hears_one_fixed_refusal(frames, first):
    caller = await frames.raw(await frames.serve(never))
    await caller.send(first)
    await expect_refusal(caller)


async def test_a_caller_that_hangs_up_early_hears_the_same_refusal(frames):
    caller = await frames.raw(await frames.serve(never))
    await caller.send(b"GET /")
    caller.writer.write_eof()
    await expect_refusal(caller)


async def test_requests_sent_behind_a_bad_hello_are_not_looked_at(frames):
    caller = await frames.raw(await frames.serve(never))
    ids = codec.encode_request(FrameType.IDS, 2, Ids(1, 1, 1, 5))
    await caller.send(hello("bad"), ids * 2000)
    await expect_refusal(caller)


async def test_a_caller_that_says_nothing_is_refused_after_a_while(frames, monkeypatch):
    monkeypatch.setattr("cloudverge_wire.peer.HELLO_WITHIN_S", 0.05)
    caller = await frames.raw(await frames.serve(never))
    await expect_refusal(caller)


async def test_another_protocol_version_gets_a_clear_error(frames):
    caller = await frames.raw(await frames.serve(never))
    reply = await caller.greet("whatever a later version calls a token", version=PROTOCOL_VERSION + 1)
    assert isinstance(reply, ErrorReply)
    assert reply.code == Code.VERSION
    assert "version" in reply.message
    assert await caller.frame() is None


async def test_a_later_hello_with_more_fields_is_understood(frames):
    caller = await frames.raw(await frames.serve(never))
    header = codec.encode([PROTOCOL_VERSION, "good", "", "", "new client", "a field of the future"])
    await caller.send(encode_frame(FrameType.HELLO, 1, header))
    assert isinstance(codec.decode_reply(FrameType.HELLO, await caller.frame()), HelloReply)


@pytest.mark.parametrize(
    ("fields", "code"),
    [({"cluster": "other"}, Code.WRONG_CLUSTER), ({"history": "other"}, Code.WRONG_HISTORY)],
)
async def test_another_cluster_or_history_is_told_to_holders_of_a_token(frames, fields, code):
    caller = await frames.raw(await frames.serve(never))
    reply = await caller.greet(**fields)
    assert isinstance(reply, ErrorReply)
    assert reply.code == code
    assert await caller.frame() is None


async def test_a_good_token_is_welcomed_and_its_ids_are_checked(frames):
    caller = await frames.raw(await frames.serve(never))
    reply = await caller.greet(cluster="c" * 32, history="h" * 32)
    assert isinstance(reply, HelloReply)
    assert (reply.cluster, reply.history, reply.server) == ("c" * 32, "h" * 32, "test")


async def test_a_hello_that_arrives_byte_by_byte_is_welcomed(frames):
    caller = await frames.raw(await frames.serve(never))
    for byte in hello():
        await caller.send(bytes((byte,)))
        await asyncio.sleep(0)
    assert isinstance(codec.decode_reply(FrameType.HELLO, await caller.frame()), HelloReply)


async def test_keys_that_cannot_be_had_are_no_refusal_for_good(frames):
    async def authenticate(_):
        raise Unavailable(Code.UNAVAILABLE, "the keys cannot be fetched: try again")

    caller = await frames.raw(await frames.serve(never, authenticate))
    reply = await caller.greet()
    assert isinstance(reply, ErrorReply)
    assert reply.code == Code.UNAVAILABLE


async def test_a_bug_in_authentication_lets_nobody_in(frames, capsys):
    async def authenticate(_):
        raise ZeroDivisionError("secret detail")

    caller = await frames.raw(await frames.serve(never, authenticate))
    reply = await caller.greet()
    assert isinstance(reply, ErrorReply)
    assert reply.code == Code.INTERNAL
    assert "secret" not in reply.message
    assert await caller.frame() is None


async def test_authentication_has_a_deadline(frames, monkeypatch):
    monkeypatch.setattr(admission, "AUTHENTICATE_WITHIN_S", 0.05)

    async def authenticate(_):
        await asyncio.sleep(60)

    caller = await frames.raw(await frames.serve(never, authenticate))
    reply = await caller.greet()
    assert isinstance(reply, ErrorReply)
    assert reply.code == Code.TIMEOUT


async def test_an_expired_authority_is_refused_until_a_fresh_hello(frames):
    def handle(peer, kind, message, body):
        return Empty(), ()

    frames.lives_s = 0.1
    caller = await frames.raw(await frames.serve(handle))
    await caller.greet()
    await asyncio.sleep(0.15)
    await caller.send(encode_frame(FrameType.READ, 2, b"\xc1 malformed, which must not show"))
    assert await caller.error() == REFUSAL
    frames.lives_s = 60
    assert isinstance(await caller.greet("good, and fresh"), HelloReply)
    await caller.send(codec.encode_request(FrameType.PING, 3, Empty()))
    assert codec.decode_reply(FrameType.PING, await caller.frame()) == Empty()


async def test_hello_again_renews_the_identity_in_order(frames):
    seen = []

    def handle(peer, kind, message, body):
        seen.append((peer.identity.token, message.offset))
        return Empty(), ()

    async def authenticate(greeting):
        await asyncio.sleep(0.01)
        return await frames.authenticate(greeting)

    def read(request_id, offset):
        return codec.encode_request(FrameType.READ, request_id, Read("", 1, offset, 0))

    caller = await frames.raw(await frames.serve(handle, authenticate))
    await caller.send(hello("good 1"), read(2, 1), hello("good 2"), read(3, 2))
    for _ in range(4):
        assert (await caller.frame()).flags == 1
    assert seen == [("good 1", 1), ("good 2", 2)]


async def test_hello_again_with_a_bad_token_ends_the_connection(frames):
    caller = await frames.raw(await frames.serve(never))
    await caller.greet()
    assert await caller.greet("bad") == REFUSAL
    assert await caller.frame() is None
