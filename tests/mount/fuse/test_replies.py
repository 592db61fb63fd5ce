"""Replies to the kernel: every field at its place, and listings that the kernel can step through."""

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_mount.fuse import replies
from cloudverge_mount.fuse.dirents import Dirents
from cloudverge_protocol.inodes import Inode

U32 = st.integers(0, 2**32 - 1)
INO = st.integers(1, 2**63 - 1)
TIME = st.integers(-(2**63), 2**63 - 1)
INODES = st.builds(Inode, INO, U32, U32, U32, U32, st.integers(0, 2**60), TIME, TIME, TIME, TIME, rdev=U32)
NAMES = st.binary(min_size=1, max_size=255).map(lambda name: name.replace(b"\0", b"a").replace(b"/", b"b"))

FILE = Inode(
    ino=0x1122334455,
    mode=0o100644,
    uid=1000,
    gid=1001,
    nlink=3,
    size=513,
    atime_ns=1_000_000_000_000_000_001,
    mtime_ns=-1,
    ctime_ns=2_999_999_999,
    btime_ns=5_000_000_007,
    rdev=0x0011032C,
)
ATTRIBUTES = (  # of FILE, as a kernel has taken them
    "5544332211000000" "0102000000000000" "0200000000000000"  # ino, size, blocks
    "00ca9a3b00000000" "ffffffffffffffff" "0200000000000000"  # seconds of atime, mtime, ctime
    "01000000" "ffc99a3b" "ffc99a3b"  # and their nanoseconds
    "a4810000" "03000000" "e8030000" "e9030000" "2c031100" "00000100" "00000000"
)  # fmt: skip


def of(text):
    return bytes.fromhex(text.replace(" ", ""))


def test_a_reply_without_payload_is_a_header():
    assert replies.ok(7) == of("10000000 00000000 0700000000000000")
    assert replies.error(2**64 - 1, 2) == of("10000000 feffffff ffffffffffffffff")
    assert replies.header(7, 1 << 20) == of("10001000 00000000 0700000000000000")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_data_follows_its_header(kind):
    assert replies.data(7, kind(b"abc")) == of("13000000 00000000 0700000000000000") + b"abc"
    assert replies.data(7, kind(b"")) == replies.ok(7)


def test_attributes_are_at_their_places():
    head = of("78000000 00000000 0700000000000000")
    assert replies.attr(7, FILE, 1.5) == head + of("0100000000000000 0065cd1d 00000000" + ATTRIBUTES)


ENTRY = "5544332211000000 0000000000000000 0100000000000000 3c00000000000000 80b2e60e 00000000" + ATTRIBUTES


def test_an_entry_leads_to_an_inode():
    assert replies.entry(7, FILE, 1.25, 60) == of("90000000 00000000 0700000000000000" + ENTRY)


def test_what_is_made_is_an_entry_and_an_open_file():
    head, handle = "a0000000 00000000 0700000000000000", "4d00000000000000 02000000 00000000"
    assert replies.created(7, FILE, 1.25, 60, 77, 2) == of(head + ENTRY + handle)
    assert replies.created(7, FILE, 1.25, 60, 77, 2, 5)[-4:] == of("05000000")


def test_an_absent_name_has_no_inode_but_a_time():
    head = of("90000000 00000000 0700000000000000")
    times = of("0000000000000000 0000000000000000 0300000000000000 0000000000000000 0065cd1d 00000000")
    assert replies.absent(7, 3.5) == head + times + bytes(88)


def test_small_replies_are_as_the_kernel_reads_them():
    assert replies.opened(1, 77, 6) == of(
        "20000000 00000000 0100000000000000 4d00000000000000 06000000 00000000"
    )
    assert replies.opened(1, 77, 128, 9)[-8:] == of("80000000 09000000")
    assert replies.written(1, 4096) == of("18000000 00000000 0100000000000000 00100000 00000000")
    assert replies.copied(1, 2**40) == of("18000000 00000000 0100000000000000 0000000000010000")
    assert replies.xattr_size(1, 5) == of("18000000 00000000 0100000000000000 05000000 00000000")
    assert replies.seeked(1, 2**40) == of("18000000 00000000 0100000000000000 0000000000010000")
    lock = "0a00000000000000 ffffffffffffff7f 01000000 92100000"
    assert replies.lock(1, 10, 2**63 - 1, 1, 4242) == of("28000000 00000000 0100000000000000" + lock)


def test_sizes_of_the_filesystem_are_in_blocks():
    shown = dict(blocks=1, free=2, available=3, files=4, files_free=5, block_bytes=65536, name_max=255)
    reply = replies.statfs(7, **shown)
    assert reply[:16] == of("60000000 00000000 0700000000000000")
    assert struct.unpack("=5Q10I", reply[16:]) == (1, 2, 3, 4, 5, 65536, 255, 65536, *(0,) * 7)


def test_statx_has_the_time_of_birth():
    reply = replies.statx(7, FILE, 0.5)
    assert len(reply) == 304
    assert reply[:48] == of("30010000 00000000 0700000000000000 0000000000000000 0065cd1d 00000000") + bytes(
        16
    )
    head = struct.unpack_from("=IIQIIIHHQQQQ", reply, 48)
    assert head == (0xFFF, 65536, 0, 3, 1000, 1001, 0o100644, 0, FILE.ino, 513, 2, 0)
    times = struct.unpack_from("=" + 4 * "qIi", reply, 48 + 64)
    assert times == (
        10**9,
        1,
        0,
        5,
        7,
        0,
        2,
        999_999_999,
        0,
        -1,
        999_999_999,
        0,
    )  # atime, btime, ctime, mtime
    assert struct.unpack_from("=4I", reply, 48 + 128) == (259, 300, 0, 0)
    assert reply[48 + 144 :] == bytes(112)


@given(INODES, st.floats(0, 1e6))
def test_attributes_come_out_as_they_went_in(inode, valid):
    reply = replies.attr(7, inode, valid)
    seconds, part = struct.unpack_from("=QI", reply, 16)
    assert seconds + part / 1e9 == pytest.approx(valid, abs=1e-6)
    assert part < 10**9
    ino, size, blocks, *times, mode, nlink, uid, gid, rdev, blksize, flags = struct.unpack_from(
        "=QQQqqqIIIIIIIIII", reply, 32
    )
    assert (ino, size, mode, nlink, uid, gid, rdev, blksize, flags) == (
        *(inode.ino, inode.size, inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev),
        *(65536, 0),
    )
    assert 0 <= blocks * 512 - size < 512
    whole = [second * 10**9 + rest for second, rest in zip(times[:3], times[3:], strict=True)]
    assert whole == [inode.atime_ns, inode.mtime_ns, inode.ctime_ns]
    assert max(times[3:]) < 10**9


def test_spans_of_time_are_bounded():
    assert replies.span(0) == replies.span(-5.0) == (0, 0)
    assert replies.span(float("inf")) == (2**31, 0)
    assert replies.span(0.999999999999) == (0, 999_999_999)


def test_values_that_do_not_fit_are_not_sent():
    for field in ("uid", "mode", "nlink", "rdev"):
        with pytest.raises(struct.error):
            replies.attr(7, msgspec.structs.replace(FILE, **{field: 2**32}), 1)


def listed(reply, head):
    """Entries as the kernel steps through them: what is before each, inode, cookie, type, name."""
    (size, error, unique), found, at = struct.unpack_from("=IiQ", reply), [], 16
    assert (size, error, unique) == (len(reply), 0, 7)
    while at < len(reply):
        before = reply[at : at + head]
        ino, cookie, length, kind = struct.unpack_from("=QQII", reply, at + head)
        end = at + head + 24 + length
        found.append((before, ino, cookie, kind, reply[at + head + 24 : end]))
        padding = -(end - 16) % 8
        assert reply[end : end + padding] == bytes(padding)
        at = end + padding
    assert at == len(reply)
    return found


@given(st.lists(st.tuples(NAMES, INODES, INO), max_size=12), st.integers(0, 2000))
def test_a_listing_has_what_fits(entries, size):
    dirents, kept = Dirents(size), []
    for name, inode, cookie in entries:
        if not dirents.add(name, msgspec.structs.replace(inode, mode=inode.mode & 0xFFFF), cookie):
            assert sum(24 + len(name) + -len(name) % 8 for name, *_ in [*kept, (name,)]) > size
            break
        kept.append((name, inode, cookie))
    reply = dirents.reply(7)
    assert len(reply) <= 16 + size
    assert listed(reply, 0) == [
        (b"", inode.ino, cookie, (inode.mode & 0xF000) >> 12, name) for name, inode, cookie in kept
    ]


@given(st.lists(st.tuples(NAMES, INO, st.booleans()), max_size=12), st.integers(0, 4000))
def test_a_listing_with_attributes_has_what_fits(entries, size):
    dirents, kept = Dirents(size), []
    for name, cookie, bare in entries:
        added = (
            dirents.add_bare(name, FILE, cookie) if bare else dirents.add_plus(name, FILE, cookie, 1.25, 60)
        )
        if not added:
            break
        kept.append((bytes(128) if bare else of(ENTRY), FILE.ino, cookie, 8, name))
    reply = dirents.reply(7)
    assert len(reply) <= 16 + size
    assert listed(reply, 128) == kept


def test_an_entry_fits_to_the_byte():
    assert Dirents(32).add(b"12345678", FILE, 1)
    assert not Dirents(31).add(b"1", FILE, 1)
    assert Dirents(160).add_plus(b"12345678", FILE, 1, 1, 1)
    assert not Dirents(159).add_plus(b"1", FILE, 1, 1, 1)
    assert not Dirents(159).add_bare(b"1", FILE, 1)
    assert Dirents(0).reply(7) == replies.ok(7)
