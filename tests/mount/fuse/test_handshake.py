"""What is agreed on with kernels old and new."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_mount.fuse.abi import Init
from cloudverge_mount.fuse.bodies import Init as Offer
from cloudverge_mount.fuse.handshake import NEVER, WANTED, Unsupported, negotiate

NEWEST = Offer(7, 45, 131072, 0x5FD73FFFFFB)  # as recorded
OLDEST = Offer(7, 31, 131072, (1 << 27) - 1)


def fields(reply):
    assert len(reply) == 80
    assert struct.unpack_from("=IiQ", reply) == (80, 0, 2)
    return struct.unpack_from("=IIIIHHIIHHIIH", reply, 16)


def test_a_new_kernel_has_all_we_want():
    handshake = negotiate(NEWEST, page_bytes=4096)
    assert (handshake.minor, handshake.missing, handshake.again) == (45, (), False)
    assert handshake.flags == WANTED | Init.INIT_EXT
    assert (handshake.max_write, handshake.max_pages, handshake.setxattr_ext) == (1 << 20, 256, True)
    assert handshake.buffer_bytes >= (1 << 20) + 80


def test_the_reply_says_what_was_agreed_on():
    handshake = negotiate(NEWEST, max_background=12, congestion_threshold=9, page_bytes=4096)
    low, high = int(handshake.flags) & 0xFFFFFFFF, int(handshake.flags) >> 32
    shown = (7, 45, 131072, low, 12, 9, 1 << 20, 1, 256, 0, high, 0, 0)
    assert fields(handshake.reply(2)) == shown
    assert high == 1 << 3


def test_an_old_kernel_is_told_what_it_lacks():
    handshake = negotiate(OLDEST)
    assert handshake.minor == 31
    assert handshake.missing == ("HANDLE_KILLPRIV_V2", "SETXATTR_EXT", "HAS_EXPIRE_ONLY")
    assert not handshake.setxattr_ext
    assert fields(handshake.reply(2))[10] == 0


def test_upper_flags_need_the_flag_that_carries_them():
    offer = Offer(7, 36, 0, int(Init.HAS_EXPIRE_ONLY | Init.BIG_WRITES))
    assert negotiate(offer).flags == Init.BIG_WRITES


def test_without_max_pages_writes_are_of_32_pages():
    handshake = negotiate(NEWEST, WANTED & ~Init.MAX_PAGES, page_bytes=4096)
    assert (handshake.max_write, handshake.max_pages) == (131072, 32)


@pytest.mark.parametrize(("page", "pages"), [(4096, 256), (16384, 64), (65536, 16)])
def test_pages_are_the_machines(page, pages):
    assert negotiate(NEWEST, page_bytes=page).max_pages == pages


def test_a_kernel_of_a_later_major_version_is_to_ask_again():
    handshake = negotiate(Offer(8, 3, 0, 2**64 - 1))
    assert handshake.again
    assert not handshake.flags
    assert fields(handshake.reply(2))[:2] == (7, 45)


@pytest.mark.parametrize("version", [(7, 30), (6, 50), (0, 0)])
def test_an_older_kernel_is_refused(version):
    with pytest.raises(Unsupported, match="is older than"):
        negotiate(Offer(*version, 0, 0))


def test_a_later_minor_version_gets_ours():
    assert negotiate(NEWEST._replace(minor=99)).minor == 45


def test_what_would_take_writes_away_is_not_to_be_wanted():
    for flag in NEVER:
        with pytest.raises(ValueError, match=flag.name):
            negotiate(NEWEST, WANTED | flag)


def test_options_are_agreed_on_when_they_are_wanted():
    options = Init.ATOMIC_O_TRUNC | Init.POSIX_ACL | Init.DONT_MASK | Init.PASSTHROUGH
    handshake = negotiate(NEWEST, WANTED | options)
    assert options in handshake.flags
    assert fields(handshake.reply(2))[11] == 1  # how deep a file that is passed through to may lie
    assert not negotiate(NEWEST).flags & options


def test_read_ahead_is_at_most_what_the_kernel_offers():
    assert negotiate(NEWEST).max_readahead == 131072
    assert negotiate(NEWEST, max_readahead=4096).max_readahead == 4096
    assert negotiate(NEWEST, max_readahead=1 << 30).max_readahead == 131072


@given(st.integers(31, 99), st.integers(0, 2**64 - 1), st.integers(0, 2**42 - 1), st.integers(0, 1 << 24))
def test_nothing_is_agreed_on_that_was_not_offered_and_wanted(minor, offered, wanted, size):
    wanted = Init(wanted) & ~NEVER
    handshake = negotiate(Offer(7, minor, 0, offered), wanted, max_write=size)
    assert not int(handshake.flags) & ~(offered & int(wanted | Init.INIT_EXT))
    assert not handshake.flags & NEVER
    assert len(handshake.reply(2)) == 80
