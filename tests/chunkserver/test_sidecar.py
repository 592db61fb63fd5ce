"""The sidecar's two forms, byte for byte."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_chunkserver.sidecar import (
    HEADER_BYTES,
    Header,
    SidecarDamaged,
    Table,
    begin_log,
    encode_fence,
    encode_record,
    encode_table,
    parse_log,
    parse_table,
)
from cloudverge_protocol.ids import BLOCK_BYTES

HEADER = Header(5, 7, 3, 1 << 26)


def log_of(lengths: list[int]) -> bytes:
    data, crc = begin_log(HEADER)
    before = 0
    for length in lengths:
        crcs = list(range(length // BLOCK_BYTES - before // BLOCK_BYTES))
        record, crc = encode_record(crc, length, 0, 99, crcs)
        data, before = data + record, length
    return data


def test_a_log_gives_back_its_records_and_all_finished_blocks():
    parsed = parse_log(log_of([10, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES]))
    assert parsed.header == HEADER
    assert [record.length for record in parsed.records] == [10, 65536, 65537, 196608]
    assert list(parsed.crcs) == [0, 0, 1]
    assert parsed.clean


@given(st.data())
def test_a_log_cut_anywhere_gives_the_records_before_the_cut(data):
    whole = log_of([10, 20, 70_000, 140_000])
    ends = [record.end for record in parse_log(whole).records]
    cut = data.draw(st.integers(HEADER_BYTES, len(whole)))
    parsed = parse_log(whole[:cut])
    assert [record.end for record in parsed.records] == [end for end in ends if end <= cut]
    assert parsed.clean == (cut in ends or cut == HEADER_BYTES)


@given(st.data())
def test_a_flipped_bit_ends_the_log_before_it(data):
    whole = bytearray(log_of([10, 20, 70_000, 140_000]))
    ends = [record.end for record in parse_log(bytes(whole)).records]
    at = data.draw(st.integers(HEADER_BYTES, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    assert [record.end for record in parse_log(bytes(whole)).records] == [end for end in ends if end <= at]


def test_a_record_of_another_log_is_not_taken():
    one, crc = begin_log(HEADER)
    other, _ = begin_log(Header(6, 7, 3, 1 << 26))
    record, _ = encode_record(crc, 10, 0, 1, [])
    assert len(parse_log(one + record).records) == 1
    assert parse_log(other + record).records == ()


def test_a_fence_raises_the_epoch_for_good():
    data, crc = begin_log(HEADER)
    record, crc = encode_record(crc, 10, 0, 1, [])
    fence, _ = encode_fence(crc, 10, 0, 1, (1 << 40) + 5)
    assert parse_log(data + record + fence).fence == (1 << 40) + 5


@given(st.integers(0, 3 * BLOCK_BYTES + 5))
def test_a_table_gives_back_what_it_was_made_of(length):
    table = Table(HEADER, length, array("I", range(-(-length // BLOCK_BYTES))))
    assert parse_table(encode_table(table)) == table


@given(st.data())
def test_a_damaged_table_is_never_believed(data):
    whole = bytearray(encode_table(Table(HEADER, 100_000, array("I", [1, 2]))))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SidecarDamaged):
        parse_table(bytes(whole))
    with pytest.raises(SidecarDamaged):
        parse_table(bytes(whole[:at]))


def test_a_log_is_no_table_and_a_table_no_log():
    with pytest.raises(SidecarDamaged):
        parse_table(log_of([]))
    with pytest.raises(SidecarDamaged):
        parse_log(encode_table(Table(HEADER, 0, array("I"))))
