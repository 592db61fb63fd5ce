"""What goes up when and together, and what a chain counts as durable."""

import os

import hypothesis.strategies as st
import pytest
from hypothesis import given

from cloudverge_mount.chain import Chain, body_crcs, joined, landings
from cloudverge_mount.dirty import DirtyFile
from cloudverge_mount.packer import NEVER, LaneName, Packer
from cloudverge_protocol.checksum import piece_crcs
from cloudverge_protocol.errors import ChunkFault, CloudVergeError, Code
from cloudverge_protocol.messages import AppendReply, ChunkGrant, Place, Receipt

KIB = 1024
MIB = 1024 * KIB


def file_with(ino, length, seq=1):
    file = DirtyFile(ino)
    file.write(0, bytes(length), seq)
    return file


@pytest.fixture
def packer():
    return Packer(parcel_bytes=2 * MIB, bulk_bytes=MIB, gather_s=0.1, age_s=1.0)


def inos(parcel):
    return [file.ino for file, _ in parcel.items]


def test_closed_files_are_gathered_for_a_moment_and_go_together(packer):
    files = [file_with(n, KIB) for n in range(50)]
    for number, file in enumerate(files):
        packer.wrote(file, number / 1000)
        packer.closed(file, number / 1000)
    assert not packer.is_ready(LaneName.SMALL, 0.05)
    assert packer.next_due() == pytest.approx(0.1)
    assert inos(packer.fill(LaneName.SMALL, MIB, 0.1)) == list(range(50))
    assert packer.next_due() == NEVER


def test_a_parcel_full_of_closed_files_does_not_wait(packer):
    for number in range(20):
        packer.closed(file_with(number, 120 * KIB), 0.0)
    assert packer.is_ready(LaneName.SMALL, 0.0)
    parcel = packer.fill(LaneName.SMALL, 64 * MIB, 0.0)
    assert parcel.length == 2 * MIB


def test_an_open_file_goes_when_it_has_aged(packer):
    file = file_with(1, KIB)
    assert packer.wrote(file, 5.0) == 6.0
    assert not packer.is_ready(LaneName.SMALL, 5.9)
    assert packer.is_ready(LaneName.SMALL, 6.0)


def test_a_stream_goes_in_whole_parcels_and_its_end_when_closed(packer):
    file = DirtyFile(1)
    for number in range(5):
        file.write(number * MIB, bytes(MIB), number)
        packer.wrote(file, 0.0)
    assert packer.fill(LaneName.BULK, 64 * MIB, 0.0).length == 2 * MIB
    assert packer.fill(LaneName.BULK, 64 * MIB, 0.0).length == 2 * MIB
    assert packer.fill(LaneName.BULK, 64 * MIB, 0.0) is None
    packer.closed(file, 0.0)
    last = packer.fill(LaneName.BULK, 64 * MIB, 0.0)
    assert last.length == MIB
    assert last.hurried


def test_streams_take_turns(packer):
    files = [file_with(n, 6 * MIB) for n in range(2)]
    for file in files:
        packer.wrote(file, 0.0)
    order = [inos(packer.fill(LaneName.BULK, 64 * MIB, 0.0))[0] for _ in range(4)]
    assert order == [0, 1, 0, 1]


def test_an_urgent_file_goes_first_and_in_small_company(packer):
    for number in range(1, 40):
        packer.closed(file_with(number, 60 * KIB), 0.0)
    urgent = file_with(99, 4 * KIB)
    packer.wrote(urgent, 0.0)
    assert packer.hurry(urgent) is LaneName.SMALL
    parcel = packer.fill(LaneName.SMALL, 64 * MIB, 0.0)
    assert inos(parcel)[0] == 99
    assert parcel.hurried
    assert parcel.length <= 256 * KIB


def test_lost_parcels_are_due_at_once(packer):
    file = file_with(1, KIB)
    packer.closed(file, 0.0)
    parcel = packer.fill(LaneName.SMALL, MIB, 1.0)
    assert packer.fill(LaneName.SMALL, MIB, 1.0) is None
    file.ground(parcel.flight, [(t.start, t.end) for t in parcel.items[0][1]])
    packer.retry(file)
    assert packer.is_ready(LaneName.SMALL, 1.0)


@given(st.lists(st.integers(0, 70_000), max_size=12), st.integers(0, 200_000))
def test_crcs_of_buffers_are_those_of_their_bytes_joined(lengths, offset):
    blob = os.urandom(70_000)
    buffers = [blob[:length] for length in lengths]
    assert body_crcs(buffers, offset) == piece_crcs(b"".join(buffers), offset)
    assert b"".join(joined(buffers)) == b"".join(buffers)


# --- chains

PLACES = (Place(1, "h", 1), Place(2, "h", 2))


def receipt(server, length, chunk=5, epoch=3):
    return Receipt(server, chunk, epoch, length, b"")


@pytest.fixture
def chain():
    return Chain(ChunkGrant(5, 3, MIB, PLACES, "t"))


def sent(chain, packer, length, ino=1):
    file = file_with(ino, length)
    packer.closed(file, 0.0)
    parcel = packer.fill(LaneName.SMALL, MIB, 1.0)
    chain.begin(parcel, True)
    return parcel


def test_bytes_are_durable_only_with_a_receipt_of_every_replica(chain, packer):
    parcel = sent(chain, packer, 100)
    chain.acknowledge(AppendReply(100, (receipt(1, 100),)), 100)
    assert chain.arrived() == []
    chain.acknowledge(AppendReply(100, (receipt(2, 60),)), 100)
    assert chain.arrived() == []
    assert chain.durable == 60
    chain.acknowledge(AppendReply(100, (receipt(2, 100),)), 100)
    assert chain.arrived() == [parcel]


def test_receipts_of_another_chunk_epoch_or_server_count_for_nothing(chain, packer):
    sent(chain, packer, 100)
    wrong = (receipt(1, 100, chunk=6), receipt(2, 100, epoch=2), receipt(3, 100))
    chain.acknowledge(AppendReply(100, wrong), 100)
    assert chain.durable == 0
    assert chain.receipts == ()


def test_replies_in_any_order_count_the_same(chain, packer):
    first, second = sent(chain, packer, 100), sent(chain, packer, 50, ino=2)
    chain.acknowledge(AppendReply(150, (receipt(1, 150), receipt(2, 150))), 150)
    chain.acknowledge(AppendReply(100, (receipt(1, 100), receipt(2, 100))), 100)
    assert chain.durable == 150
    assert chain.arrived() == [first, second]


def test_a_failure_down_the_chain_names_its_server(chain, packer):
    sent(chain, packer, 100)
    with pytest.raises(CloudVergeError) as caught:
        chain.acknowledge(AppendReply(100, (receipt(1, 100),), 2, int(Code.NO_SPACE), "full"), 100)
    assert caught.value.code == Code.NO_SPACE
    assert chain.failed_server == 2


def test_a_reply_short_of_the_append_is_a_failure(chain, packer):
    sent(chain, packer, 100)
    with pytest.raises(ChunkFault):
        chain.acknowledge(AppendReply(90), 100)


def test_a_broken_chain_counts_nothing_any_more(chain, packer):
    parcel = sent(chain, packer, 100)
    lost = chain.abandon(ChunkFault(Code.SEALED))
    assert lost == [parcel]
    chain.acknowledge(AppendReply(100, (receipt(1, 100), receipt(2, 100))), 100)
    assert chain.durable == 0
    assert chain.arrived() == []


def test_landings_follow_the_order_of_the_parcel(packer):
    files = [file_with(n, 100 + n) for n in range(3)]
    for file in files:
        packer.closed(file, 0.0)
    parcel = packer.fill(LaneName.SMALL, MIB, 1.0)
    chain = Chain(ChunkGrant(5, 3, MIB, PLACES, "t"))
    chain.end = 1000
    chain.begin(parcel, True)
    places = [(file.ino, [tuple(place) for place in found]) for file, found in landings(parcel)]
    assert places == [(0, [(0, 100, 1000)]), (1, [(0, 101, 1100)]), (2, [(0, 102, 1201)])]
