"""CRC-32C and the cutting of bytes at block boundaries."""

from hypothesis import given
from hypothesis import strategies as st

from cloudverge_protocol.checksum import crc32c, piece_crcs, pieces_match, split_at_blocks
from cloudverge_protocol.ids import BLOCK_BYTES


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_the_checksum_of_a_growing_block_is_carried_on(first: bytes, more: bytes) -> None:
    assert crc32c(more, crc32c(first)) == crc32c(first + more)
    assert crc32c(memoryview(bytearray(first))) == crc32c(first)


@given(st.integers(0, 5 * BLOCK_BYTES), st.integers(0, 5 * BLOCK_BYTES))
def test_pieces_cover_the_range_and_never_cross_a_block(offset: int, length: int) -> None:
    position = 0
    for start, end in split_at_blocks(offset, length):
        assert start == position < end
        assert (offset + start) // BLOCK_BYTES == (offset + end - 1) // BLOCK_BYTES
        position = end
    assert position == length


@given(st.integers(0, 3 * BLOCK_BYTES), st.integers(1, 3 * BLOCK_BYTES), st.data())
def test_any_flipped_bit_is_noticed(offset: int, length: int, data: st.DataObject) -> None:
    content = bytearray(bytes(range(256)) * (length // 256 + 1))[:length]
    crcs = piece_crcs(content, offset)
    assert pieces_match(content, offset, crcs)
    bit = data.draw(st.integers(0, 8 * length - 1))
    content[bit // 8] ^= 1 << bit % 8
    assert not pieces_match(content, offset, crcs)


def test_one_checksum_too_many_or_too_few_does_not_match() -> None:
    content = bytes(2 * BLOCK_BYTES)
    crcs = piece_crcs(content, 0)
    assert len(crcs) == 2
    assert not pieces_match(content, 0, crcs[:1])
    assert not pieces_match(content, 0, [*crcs, 0])
    assert not pieces_match(content, 1, crcs)
