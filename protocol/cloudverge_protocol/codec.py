"""Messages to bytes and back: msgspec's msgpack, with one decoder per message type.

A header that does not decode is the peer's fault (BAD_REQUEST), whatever is wrong with it.
"""

from typing import Any, TypeVar

import msgspec

from cloudverge_protocol.errors import Code, ProtocolFault
from cloudverge_protocol.frames import FLAG_ERROR, FLAG_REPLY, Frame, encode_frame
from cloudverge_protocol.messages import REPLIES, REQUESTS, ErrorReply, FrameType, Message

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode


_decoders: dict[type, msgspec.msgpack.Decoder[Any]] = {}  # bounded by the number of message types


def _decoder(kind: type[T]) -> "msgspec.msgpack.Decoder[T]":
    known = _decoders.get(kind)
    if known is None:
        known = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    return known


def decode(kind: type[T], data: bytes | bytearray | memoryview) -> T:
    """The value of type ``kind`` in ``data``; raises ProtocolFault(BAD_REQUEST)."""
    try:
        return _decoder(kind).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolFault(
            Code.BAD_REQUEST, f"malformed {getattr(kind, '__name__', kind)}: {error}"
        ) from None


def encode_request(kind: FrameType, request_id: int, message: Message, body_bytes: int = 0) -> bytes:
    """A request frame, up to its body."""
    return encode_frame(kind, request_id, encode(message), body_bytes)


def encode_reply(kind: int, request_id: int, message: Message, body_bytes: int = 0) -> bytes:
    """A reply frame, up to its body."""
    return encode_frame(kind, request_id, encode(message), body_bytes, FLAG_REPLY)


def encode_error(kind: int, request_id: int, error: ErrorReply) -> bytes:
    """An error reply frame."""
    return encode_frame(kind, request_id, encode(error), 0, FLAG_REPLY | FLAG_ERROR)


def decode_request(frame: Frame) -> tuple[FrameType, Message]:
    """The request in a frame; an unknown type or a reply is BAD_REQUEST."""
    try:
        kind = FrameType(frame.type)
    except ValueError:
        raise ProtocolFault(Code.BAD_REQUEST, f"unknown frame type {frame.type}") from None
    if frame.flags:
        raise ProtocolFault(Code.BAD_REQUEST, "a reply where a request was expected")
    return kind, decode(REQUESTS[kind], frame.header)


def decode_reply(kind: FrameType, frame: Frame) -> Message:
    """The reply in a frame; an error reply is returned as ErrorReply, for the caller to raise."""
    if frame.flags & FLAG_ERROR:
        return decode(ErrorReply, frame.header)
    return decode(REPLIES[kind], frame.header)
