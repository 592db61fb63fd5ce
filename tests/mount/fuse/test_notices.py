"""Notifications: their bytes are those that a kernel has taken."""

from cloudverge_mount.fuse import notices


def of(text):
    return bytes.fromhex(text.replace(" ", ""))


def test_an_inode_is_forgotten_with_its_pages_or_without():
    head = "28000000 02000000 0000000000000000 d007000000000000"
    assert notices.inval_inode(2000) == of(head + "0000000000000000 0000000000000000")
    assert notices.inval_inode(2000, -1) == of(head + "ffffffffffffffff 0000000000000000")
    assert notices.inval_inode(2000, 4096, -1) == of(head + "0010000000000000 ffffffffffffffff")


def test_a_name_is_forgotten_or_expires():
    head = "2a000000 03000000 0000000000000000 0100000000000000 09000000"
    assert notices.inval_entry(1, b"hello.txt") == of(head + "00000000") + b"hello.txt\0"
    assert notices.inval_entry(1, b"hello.txt", expire=True) == of(head + "01000000") + b"hello.txt\0"


def test_a_name_that_is_gone_is_told_with_its_inode():
    head = of("32000000 06000000 0000000000000000 0100000000000000 d007000000000000 09000000 00000000")
    assert notices.delete(1, 2000, b"hello.txt") == head + b"hello.txt\0"


def test_pages_are_stored_behind_their_header():
    head = "33000000 04000000 0000000000000000 d007000000000000 0010000000000000 0b000000 00000000"
    assert notices.store(2000, 4096, 11) == of(head)
