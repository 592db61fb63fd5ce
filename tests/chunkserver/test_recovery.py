"""A crash at any byte: what was acknowledged as durable is there, and nothing is claimed that does not verify."""

from hypothesis import given
from hypothesis import strategies as st

from cloudverge_chunkserver.capacity import Capacity
from cloudverge_chunkserver.commits import Commits, Workers
from cloudverge_chunkserver.damage import DamageList
from cloudverge_chunkserver.disk import Part
from cloudverge_chunkserver.memdisk import MemDisk
from cloudverge_chunkserver.reading import Span
from cloudverge_chunkserver.sidecar import Header
from cloudverge_chunkserver.store import ChunkStore
from cloudverge_protocol.checksum import piece_crcs
from cloudverge_protocol.ids import BLOCK_BYTES, CHUNK_BYTES

RIGHT = Header(1, 7, 1, CHUNK_BYTES)
BYTES = bytes(i * 7 % 251 for i in range(4 * BLOCK_BYTES))


def opened(disk: MemDisk) -> ChunkStore:
    store = ChunkStore(disk, Capacity(0, reserve_bytes=0), DamageList())
    store.load()
    return store


def append(store: ChunkStore, size: int) -> int:
    found = store.find(1)
    offset = found.length if found is not None else 0
    data = BYTES[offset : offset + size]
    return store.commit(store.prepare(RIGHT, offset, data, tuple(piece_crcs(data, offset)))).length


def sync(store: ChunkStore) -> int:
    workers = Workers(1)
    chunk = store.find(1)
    assert Commits(store.disk, workers).durable_at_once(chunk, chunk.length)
    workers.close()
    return chunk.durable


def readable(store: ChunkStore) -> bytes:
    view = store.view(1, 7)
    return bytes(store.read_checked(1, view, Span(0, view.length)))


steps = st.lists(
    st.one_of(st.integers(1, 90_000), st.sampled_from([4096, 65536]), st.just("sync")), min_size=1, max_size=6
)


@given(steps, st.data())
def test_a_power_loss_keeps_what_was_synced_and_claims_only_what_verifies(plan, data):
    disk = MemDisk()
    store = opened(disk)
    acknowledged = append(store, 30_000)
    durable = sync(store)
    for step in plan:
        if step == "sync":
            durable = sync(store)
        elif acknowledged + step <= len(BYTES):
            acknowledged = append(store, step)
    disk.crash(lambda _name, kept, current: torn(data, kept, current))
    store = opened(disk)
    content = readable(store)
    assert durable <= len(content) <= acknowledged
    assert content == BYTES[: len(content)]


def torn(data, kept: bytes, current: bytes) -> bytes:
    """Some of the unsynced bytes reached the disk, some are still what was there (or zeroes), any length."""
    size = data.draw(st.integers(min(len(kept), len(current)), len(current)))
    result = bytearray(current[:size])
    base = kept + bytes(max(0, size - len(kept)))
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, size))
        end = data.draw(st.integers(start, size))
        result[start:end] = base[start:end]
    return bytes(result)


@given(st.lists(st.integers(1, 70_000), min_size=1, max_size=4), st.data())
def test_a_sidecar_torn_at_any_byte_of_its_last_records_keeps_what_was_synced(sizes, data):
    disk = MemDisk()
    store = opened(disk)
    append(store, 50_000)
    durable = sync(store)
    synced_log = len(disk.files[1, Part.LOG])
    for size in sizes[:2]:
        append(store, size)
    log = disk.files[1, Part.LOG]
    del log[data.draw(st.integers(synced_log, len(log))) :]
    again = opened(disk)
    content = readable(again)
    assert len(content) >= durable
    assert content == BYTES[: len(content)]


def test_every_cut_of_the_last_record_and_its_data_recovers_the_record_before():
    disk = MemDisk()
    store = opened(disk)
    first = append(store, 70_000)
    log_before, data_before = len(disk.files[1, Part.LOG]), len(disk.files[1, Part.DATA])
    append(store, 300)
    whole = {name: bytes(content) for name, content in disk.files.items()}
    for cut in range(log_before, len(whole[1, Part.LOG])):
        disk.files = {name: bytearray(content) for name, content in whole.items()}
        del disk.files[1, Part.LOG][cut:]
        assert readable(opened(disk)) == BYTES[:first]
    for cut in range(data_before, len(whole[1, Part.DATA])):
        disk.files = {name: bytearray(content) for name, content in whole.items()}
        del disk.files[1, Part.DATA][cut:]
        assert readable(opened(disk)) == BYTES[:first]


def test_a_killed_process_loses_only_what_it_had_not_acknowledged_and_appends_go_on():
    disk = MemDisk()
    store = opened(disk)
    acknowledged = append(store, 70_000)
    disk.write(1, Part.DATA, acknowledged, b"written, but the process died before its record")
    again = opened(disk)
    assert readable(again) == BYTES[:acknowledged]
    assert len(disk.files[1, Part.DATA]) == acknowledged
    assert append(again, 1000) == acknowledged + 1000
    assert readable(opened(disk)) == BYTES[: acknowledged + 1000]


def test_a_torn_chunk_takes_no_more_appends_and_its_files_are_left_alone():
    disk = MemDisk()
    store = opened(disk)
    append(store, 70_000)
    append(store, 70_000)
    disk.files[1, Part.DATA][100_000] ^= 1
    before = {name: bytes(content) for name, content in disk.files.items()}
    again = opened(disk)
    assert len(readable(again)) == 70_000
    assert again.find(1).closed
    assert {name: bytes(content) for name, content in disk.files.items()} == before


def test_rot_below_what_was_synced_costs_that_block_alone():
    disk = MemDisk()
    store = opened(disk)
    append(store, 3 * BLOCK_BYTES)
    sync(store)
    append(store, 10)
    disk.files[1, Part.DATA][10] ^= 1
    again = opened(disk)
    view = again.view(1, 7)
    assert view.length == 3 * BLOCK_BYTES + 10
    rest = Span(BLOCK_BYTES, view.length - BLOCK_BYTES)
    assert bytes(again.read_checked(1, view, rest)) == BYTES[BLOCK_BYTES : view.length]


def test_a_chunk_whose_creation_was_cut_short_is_forgotten_but_its_bytes_are_kept_aside():
    disk = MemDisk()
    store = opened(disk)
    append(store, 1000)
    del disk.files[1, Part.LOG][20:]
    again = opened(disk)
    assert again.find(1) is None
    assert again.chunks == 0
    assert disk.lost[1, Part.DATA] == BYTES[:1000]
