"""The frame codec: bytes in, frames out, no I/O (in the manner of h11).

A frame is a prefix of 24 bytes, a header (msgpack) and a body (raw)::

    type u16 | flags u16 | request id u32 | header length u32 | body length u32 |
    CRC-32C of the header u32 | CRC-32C of the 20 bytes before u32          (all little-endian)

The prefix is checked before any length in it is believed, lengths are bounded before anything is allocated,
so a peer that sends garbage gets an error and costs a few kilobytes. The body is not covered here: the
messages that have one carry a checksum per block, which is verified where the bytes are used.

``FrameReader`` fits both loops: it says where the next received bytes should go (``get_buffer``), is told
how many came (``buffer_updated``), and gives whole frames (``next_frame``). Small frames are parsed out of
one staging buffer; the rest of a large one is received straight into the frame's own buffer.

Invariants: a reader that has raised stays broken (framing is lost: close the connection); a frame's buffer
is never reused, so views of it stay valid for as long as somebody holds them.
"""

import struct
from typing import Final, NamedTuple

from cloudverge_protocol.checksum import crc32c
from cloudverge_protocol.errors import Code, ProtocolFault
from cloudverge_protocol.ids import MAX_FRAME_BODY_BYTES, MAX_FRAME_HEADER_BYTES

PREFIX: Final = struct.Struct("<HHIIIII")
_FIXED: Final = struct.Struct("<HHIIII")
_CRC: Final = struct.Struct("<I")
PREFIX_BYTES: Final = PREFIX.size
STAGING_BYTES: Final = 64 * 1024
MAX_FRAME_BYTES: Final = MAX_FRAME_HEADER_BYTES + MAX_FRAME_BODY_BYTES

FLAG_REPLY: Final = 1
FLAG_ERROR: Final = 2  # with FLAG_REPLY: the header is an ErrorReply
KNOWN_FLAGS: Final = FLAG_REPLY | FLAG_ERROR


class Frame(NamedTuple):
    """One received frame; ``header`` and ``body`` are views of a buffer that belongs to the frame alone."""

    type: int
    flags: int
    request_id: int
    header: memoryview
    body: memoryview


def encode_frame(kind: int, request_id: int, header: bytes, body_bytes: int = 0, flags: int = 0) -> bytes:
    """Prefix and header of a frame, to be sent just before ``body_bytes`` bytes of body.

    Raises ProtocolFault(BAD_FRAME) if the header or the body is over its limit.
    """
    if len(header) > MAX_FRAME_HEADER_BYTES or body_bytes > MAX_FRAME_BODY_BYTES:
        raise ProtocolFault(Code.BAD_FRAME, f"frame too large: {len(header)} + {body_bytes} bytes")
    fixed = _FIXED.pack(kind, flags, request_id, len(header), body_bytes, crc32c(header))
    return b"".join((fixed, _CRC.pack(crc32c(fixed)), header))


class _Prefix(NamedTuple):
    type: int
    flags: int
    request_id: int
    header_bytes: int
    body_bytes: int
    header_crc: int


def _parse_prefix(view: memoryview, limit_bytes: int) -> _Prefix:
    *fields, crc = PREFIX.unpack(view)
    if crc != crc32c(view[: PREFIX_BYTES - 4]):
        raise ProtocolFault(Code.BAD_FRAME, "frame prefix fails its checksum")
    prefix = _Prefix(*fields)
    if prefix.header_bytes > MAX_FRAME_HEADER_BYTES or prefix.body_bytes > MAX_FRAME_BODY_BYTES:
        raise ProtocolFault(Code.BAD_FRAME, "frame announces more than the limit")
    if prefix.header_bytes + prefix.body_bytes > limit_bytes:
        raise ProtocolFault(Code.BAD_FRAME, "frame announces more than this peer may send yet")
    if prefix.flags & ~KNOWN_FLAGS:
        raise ProtocolFault(Code.BAD_FRAME, "frame has unknown flags")
    return prefix


class FrameReader:
    """Turns received bytes into frames; see the module's text for the three calls."""

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self.limit_bytes = limit_bytes  # of header and body; a server may start low and raise it after HELLO
        self._staging = memoryview(bytearray(STAGING_BYTES))
        self._start = 0  # staged bytes not yet parsed: [start, end)
        self._end = 0
        self._prefix: _Prefix | None = None
        self._payload = memoryview(b"")
        self._filled = 0
        self._broken = False

    def get_buffer(self) -> memoryview:
        """Where the next received bytes should go; never empty."""
        if self._prefix is not None and self._filled < len(self._payload):
            return self._payload[self._filled :]
        if self._start and self._end + PREFIX_BYTES > STAGING_BYTES:
            kept = bytes(self._staging[self._start : self._end])
            self._staging[: len(kept)] = kept
            self._start, self._end = 0, len(kept)
        return self._staging[self._end :]

    def buffer_updated(self, received: int) -> None:
        """``received`` bytes were written at the front of the last ``get_buffer()``."""
        if self._prefix is not None and self._filled < len(self._payload):
            self._filled += received
        else:
            self._end += received

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None until more bytes come.

        Raises ProtocolFault(BAD_FRAME) on garbage, and again on every later call.
        """
        if self._broken:
            raise ProtocolFault(Code.BAD_FRAME, "framing was lost on this connection")
        try:
            return self._next_frame()
        except ProtocolFault:
            self._broken = True
            raise

    def _next_frame(self) -> Frame | None:
        if self._prefix is None and not self._begin():
            return None
        prefix, payload = self._prefix, self._payload
        assert prefix is not None
        if self._filled < len(payload):
            return None
        header = payload[: prefix.header_bytes]
        if crc32c(header) != prefix.header_crc:
            raise ProtocolFault(Code.BAD_FRAME, "frame header fails its checksum")
        self._prefix, self._payload = None, memoryview(b"")
        return Frame(prefix.type, prefix.flags, prefix.request_id, header, payload[prefix.header_bytes :])

    def _begin(self) -> bool:
        """Parse a prefix out of the staging buffer and move what follows it into a payload buffer."""
        if self._end - self._start < PREFIX_BYTES:
            return False
        prefix = _parse_prefix(self._staging[self._start : self._start + PREFIX_BYTES], self.limit_bytes)
        self._start += PREFIX_BYTES
        size = prefix.header_bytes + prefix.body_bytes
        payload = memoryview(bytearray(size))
        staged = min(size, self._end - self._start)
        payload[:staged] = self._staging[self._start : self._start + staged]
        self._start += staged
        if self._start == self._end:
            self._start = self._end = 0
        self._prefix, self._payload, self._filled = prefix, payload, staged
        return True

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Convenience for tests and simple callers: take ``data`` in and return every whole frame in it."""
        rest, frames = memoryview(data), []
        while True:
            while (frame := self.next_frame()) is not None:
                frames.append(frame)
            if not rest:
                return frames
            room = self.get_buffer()
            taken = min(len(room), len(rest))
            room[:taken] = rest[:taken]
            self.buffer_updated(taken)
            rest = rest[taken:]
