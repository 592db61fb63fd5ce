"""Messages over the wire: every type comes back as it was, every other header is the peer's fault."""

import inspect
import types
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_protocol import codec, messages, operations
from cloudverge_protocol.errors import Code, ProtocolFault
from cloudverge_protocol.frames import FrameReader, encode_frame
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.messages import REPLIES, REQUESTS, ErrorReply, FrameType, Message

VOCABULARY = sorted(
    {kind for _, kind in inspect.getmembers(messages, inspect.isclass) if issubclass(kind, Message)}
    - {Message},
    key=lambda kind: kind.__name__,
)
OPERATIONS = typing.get_args(operations.Operation)
LONG_WRITE = operations.Write(1, (Extent(0, 1, 1, 0),) * 100_001, 1, 1, 1)

LEAVES: dict[object, st.SearchStrategy[Any]] = {
    int: st.integers(-(1 << 63), (1 << 64) - 1),
    bool: st.booleans(),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=20),
    bytes: st.binary(max_size=20),
    type(None): st.none(),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of an annotated type."""
    while isinstance(kind, typing.NewType):
        kind = kind.__supertype__
    if kind in LEAVES:
        return LEAVES[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(values, arguments))
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{name: values(hints[name]) for name in kind.__struct_fields__})


@pytest.mark.parametrize("kind", [*VOCABULARY, *OPERATIONS, operations.Entry, operations.LogEntry])
def test_every_message_comes_back_as_it_was_sent(kind: type) -> None:
    @given(values(kind))
    def comes_back(message: Any) -> None:
        assert codec.decode(kind, codec.encode(message)) == message

    comes_back()


@pytest.mark.parametrize("kind", FrameType)
def test_every_frame_type_has_a_request_and_a_reply(kind: FrameType) -> None:
    assert issubclass(REQUESTS[kind], Message)
    assert issubclass(REPLIES[kind], Message)


def test_there_is_no_message_that_no_frame_carries() -> None:
    carried: set[Any] = {ErrorReply}

    def carry(kind: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, Message) and kind not in carried:
            carried.add(kind)
            for hint in typing.get_type_hints(kind).values():
                carry(hint)
        for argument in typing.get_args(kind):
            carry(argument)

    for kind in (*REQUESTS.values(), *REPLIES.values()):
        carry(kind)
    assert {*VOCABULARY} == carried


@pytest.mark.parametrize("kind", [*dict.fromkeys(REQUESTS.values())])
def test_a_request_without_its_fields_is_the_peers_fault(kind: type) -> None:
    for header in (b"", b"\x90", b"\xc0", b"\x81", b"hello", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000):
        try:
            codec.decode(kind, header)
        except ProtocolFault as fault:
            assert fault.code == Code.BAD_REQUEST  # noqa: PT017
            assert kind.__name__ in fault.message  # noqa: PT017


@given(st.sampled_from(VOCABULARY), st.binary(max_size=100))
def test_random_bytes_decode_or_are_the_peers_fault(kind: type, header: bytes) -> None:
    try:
        codec.decode(kind, header)
    except ProtocolFault as fault:
        assert fault.code == Code.BAD_REQUEST  # noqa: PT017


def test_a_newer_peer_may_append_fields_and_an_older_one_leave_out_those_with_a_default() -> None:
    longer = msgspec.msgpack.encode([1, "token", "", "", "", "a new field"])
    assert codec.decode(messages.Hello, longer) == messages.Hello(1, "token")
    assert codec.decode(messages.Hello, msgspec.msgpack.encode([1, "token"])) == messages.Hello(1, "token")


def only_frame(data: bytes) -> Any:
    (frame,) = FrameReader().feed(data)
    return frame


def test_requests_replies_and_errors_travel_in_frames() -> None:
    hello, reply = messages.Hello(1, "t"), messages.HelloReply(1, "c", "h", "s", 5)
    request = only_frame(codec.encode_request(FrameType.HELLO, 7, hello))
    assert (request.request_id, codec.decode_request(request)) == (7, (FrameType.HELLO, hello))
    answer = only_frame(codec.encode_reply(FrameType.HELLO, 7, reply))
    assert codec.decode_reply(FrameType.HELLO, answer) == reply
    error = ErrorReply(Code.FENCED, "replaced", 1.5)
    assert codec.decode_reply(FrameType.HELLO, only_frame(codec.encode_error(1, 7, error))) == error


def test_a_reply_or_an_unknown_type_is_no_request() -> None:
    for data in (codec.encode_reply(FrameType.PING, 1, messages.Empty()), encode_frame(59, 1, b"\x90")):
        with pytest.raises(ProtocolFault) as caught:
            codec.decode_request(only_frame(data))
        assert caught.value.code == Code.BAD_REQUEST


@pytest.mark.parametrize(
    "message",
    [
        messages.Batch(1, 1, 1, (), (operations.Entry(1, 1, operations.Setattr(1, 1)),) * 5_001),
        messages.Batch(1, 1, 1, (messages.Receipt(1, 1, 1, 1, b""),) * 10_001, ()),
        messages.Batch(1, 1, 1, (), (operations.Entry(1, 1, LONG_WRITE),)),
        messages.ChunkAllocate(1, 1, 1, 1, (1,) * 1_001),
    ],
    ids=["entries", "receipts", "extents", "servers"],
)
def test_a_list_that_is_too_long_is_the_peers_fault(message):
    with pytest.raises(ProtocolFault, match=r"array.*of length <= "):
        codec.decode(type(message), codec.encode(message))
