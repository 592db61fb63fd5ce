"""The frame reader: whatever the pieces, whole frames; whatever the garbage, an error and little memory."""

import random
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_protocol.checksum import crc32c
from cloudverge_protocol.errors import Code, ProtocolFault
from cloudverge_protocol.frames import (
    FLAG_ERROR,
    FLAG_REPLY,
    PREFIX_BYTES,
    STAGING_BYTES,
    Frame,
    FrameReader,
    encode_frame,
)
from cloudverge_protocol.ids import MAX_FRAME_BODY_BYTES, MAX_FRAME_HEADER_BYTES

Sent = tuple[int, int, int, bytes, bytes]  # type, flags, request id, header, body

sent_frames = st.tuples(
    st.integers(0, 0xFFFF),
    st.sampled_from((0, FLAG_REPLY, FLAG_REPLY | FLAG_ERROR)),
    st.integers(0, 0xFFFF_FFFF),
    st.binary(max_size=200),
    st.binary(max_size=500),
)


def encoded(frame: Sent) -> bytes:
    kind, flags, request_id, header, body = frame
    return encode_frame(kind, request_id, header, len(body), flags) + body


def plain(frame: Frame) -> Sent:
    return frame.type, frame.flags, frame.request_id, bytes(frame.header), bytes(frame.body)


def prefix(header_bytes: int, body_bytes: int, flags: int = 0) -> bytes:
    """A prefix with correct checksums, whatever it announces."""
    fixed = struct.pack("<HHIIII", 1, flags, 1, header_bytes, body_bytes, 0)
    return fixed + struct.pack("<I", crc32c(fixed))


def received(reader: FrameReader, data: bytes, sizes: list[int]) -> list[Sent]:
    """Feed ``data`` as a socket would: into the reader's own buffer, in pieces of these sizes, again and again."""
    frames: list[Sent] = []
    position, turn = 0, 0
    while position < len(data):
        room = reader.get_buffer()
        assert len(room) > 0
        piece = data[position : position + min(len(room), sizes[turn % len(sizes)])]
        room[: len(piece)] = piece
        reader.buffer_updated(len(piece))
        position, turn = position + len(piece), turn + 1
        while (frame := reader.next_frame()) is not None:
            frames.append(plain(frame))
    return frames


@given(st.lists(sent_frames, max_size=8), st.lists(st.integers(1, 700), min_size=1, max_size=8))
def test_frames_arrive_whole_whatever_pieces_they_come_in(frames: list[Sent], sizes: list[int]) -> None:
    stream = b"".join(encoded(frame) for frame in frames)
    assert received(FrameReader(), stream, sizes) == frames


def test_frames_arrive_whole_when_split_at_any_byte() -> None:
    frames = [(20, 0, 7, b"header", b"body"), (21, FLAG_REPLY, 8, b"", b""), (22, 0, 9, b"h", b"b" * 40)]
    stream = b"".join(encoded(frame) for frame in frames)
    for at in range(len(stream) + 1):
        reader = FrameReader()
        assert [plain(f) for part in (stream[:at], stream[at:]) for f in reader.feed(part)] == frames
    assert received(FrameReader(), stream, [1]) == frames


def test_thousands_of_small_frames_pass_through_the_staging_buffer() -> None:
    frames = [(1, 0, number, b"h" * (number % 50), b"") for number in range(5000)]
    stream = b"".join(encoded(frame) for frame in frames)
    assert len(stream) > 3 * STAGING_BYTES
    assert received(FrameReader(), stream, [STAGING_BYTES]) == frames
    assert received(FrameReader(), stream, [977, STAGING_BYTES, 13]) == frames


def test_the_largest_frame_is_received_into_its_own_buffer() -> None:
    body = bytes(random.Random(1).randbytes(MAX_FRAME_BODY_BYTES))
    reader = FrameReader()
    (frame,) = reader.feed(encoded((61, 0, 1, b"h" * MAX_FRAME_HEADER_BYTES, body)))
    assert frame.body == body
    assert len(frame.header) == MAX_FRAME_HEADER_BYTES


def test_a_frames_bytes_stay_as_they_are_while_others_arrive() -> None:
    reader = FrameReader()
    (first,) = reader.feed(encoded((1, 0, 1, b"one", b"first body")))
    for _ in range(100):
        reader.feed(encoded((1, 0, 2, b"two", b"another, longer body")))
    assert (first.header, first.body) == (b"one", b"first body")


@given(st.binary(min_size=PREFIX_BYTES, max_size=4000))
def test_garbage_is_an_error_and_framing_stays_lost(garbage: bytes) -> None:
    reader = FrameReader()
    with pytest.raises(ProtocolFault) as caught:
        reader.feed(garbage)
    assert caught.value.code == Code.BAD_FRAME
    with pytest.raises(ProtocolFault):
        reader.feed(encoded((1, 0, 1, b"", b"")))


@given(sent_frames, st.data())
def test_a_flipped_bit_before_the_body_is_an_error_or_waits_for_nothing_it_was_not_told(
    frame: Sent, data: st.DataObject
) -> None:
    stream = bytearray(encoded(frame))
    bit = data.draw(st.integers(0, 8 * (len(stream) - len(frame[4])) - 1))
    stream[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolFault) as caught:
        FrameReader().feed(stream)
    assert caught.value.code == Code.BAD_FRAME


@pytest.mark.parametrize(
    "announced",
    [
        prefix(MAX_FRAME_HEADER_BYTES + 1, 0),
        prefix(0, MAX_FRAME_BODY_BYTES + 1),
        prefix(0xFFFF_FFFF, 0xFFFF_FFFF),
        prefix(0, 0, flags=4),
        prefix(0, 0, flags=0xFFFF),
    ],
)
def test_what_nobody_may_announce_costs_nothing(announced: bytes) -> None:
    reader = FrameReader()
    tracemalloc.start()
    with pytest.raises(ProtocolFault):
        reader.feed(announced)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 64 * 1024


def test_a_peer_that_has_not_said_hello_can_be_kept_small() -> None:
    reader = FrameReader(limit_bytes=100)
    assert len(reader.feed(encoded((1, 0, 1, b"h" * 100, b"")))) == 1
    reader.limit_bytes = 200
    assert len(reader.feed(encoded((1, 0, 1, b"h" * 100, b"b" * 100)))) == 1
    with pytest.raises(ProtocolFault):
        reader.feed(encoded((1, 0, 1, b"h" * 100, b"b" * 101)))


def test_a_frame_over_the_limit_is_not_sent() -> None:
    for header, body_bytes in ((b"h" * (MAX_FRAME_HEADER_BYTES + 1), 0), (b"", MAX_FRAME_BODY_BYTES + 1)):
        with pytest.raises(ProtocolFault):
            encode_frame(1, 1, header, body_bytes)
