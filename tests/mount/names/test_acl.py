"""Access control lists as values, against acl(5) and what the kernel does on a local file system."""

import errno
import os
import random

import pytest

from cloudverge_mount.acl import (
    ACCESS,
    GROUP,
    GROUP_OBJ,
    MASK,
    NOBODY,
    OTHER,
    USER,
    USER_OBJ,
    Entry,
    after_chmod,
    at_birth,
    format_acl,
    is_extended,
    mode_of,
    parse_acl,
)
from cloudverge_protocol.errors import Code, Refused

TAGS = {"u": USER_OBJ, "U": USER, "g": GROUP_OBJ, "G": GROUP, "m": MASK, "o": OTHER}


def acl(text: str):
    """``u7 U1000:6 g5 m7 o0``."""
    entries = []
    for word in text.split():
        name, _, permissions = word.rpartition(":") if ":" in word else (word[:1], "", word[1:])
        entries.append(Entry(TAGS[name[0]], int(permissions), int(name[1:] or NOBODY)))
    return tuple(entries)


def invalid():
    return pytest.raises(Refused, check=lambda error: error.code == Code.INVALID)


@pytest.mark.parametrize(
    "text", ["u7 g5 o0", "u7 g5 m1 o0", "u6 U1:7 U2:0 g4 G9:7 m5 o1", "u0 g0 G0:0 m0 o0"]
)
def test_a_list_comes_back_as_it_was(text) -> None:
    assert parse_acl(format_acl(acl(text))) == acl(text)


def test_a_list_as_setfacl_writes_it() -> None:
    value = bytes.fromhex(
        "02000000 01000600ffffffff 02000600e8030000 04000400ffffffff 10000600ffffffff 20000000ffffffff"
    )
    assert parse_acl(value) == acl("u6 U1000:6 g4 m6 o0")
    assert format_acl(acl("u6 U1000:6 g4 m6 o0")) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "g5 o0", "u7 o0", "u7 g5", "u7 u7 g5 o0", "u7 g5 g5 o0", "u7 g5 o0 o0", "u7 g5 m5 m5 o0"),
        *("u7 U1:7 g5 o0", "u7 g5 G1:7 o0", "g5 u7 o0", "u7 g5 o0 m7", "U1:7 u7 g5 m5 o0", "u7 m5 g5 o0"),
        *("u8 g5 o0", f"u7 U{NOBODY}:7 g5 m5 o0"),
    ],
)
def test_what_is_no_list_is_refused(text) -> None:
    with invalid():
        parse_acl(format_acl(acl(text)))


@pytest.mark.parametrize("wrong", [b"", b"\2\0\0", b"\1\0\0\0", b"\2\0\0\0\1", bytes(4), bytes(100)])
def test_bytes_of_another_form_are_refused(wrong) -> None:
    with invalid():
        parse_acl(wrong)
    with invalid():
        parse_acl(format_acl(acl("u7 g5 o0")) + b"x")
    with invalid():
        parse_acl(format_acl((*acl("u7 g5 o0"), Entry(0x40, 7))))


@pytest.mark.parametrize(
    ("text", "mode", "extended"),
    [("u7 g5 o1", 0o751, False), ("u7 g5 m2 o1", 0o721, True), ("u6 U1:7 g0 m6 o4", 0o664, True)],
)
def test_the_mode_shows_the_mask_as_its_group(text, mode, extended) -> None:
    assert mode_of(acl(text)) == mode
    assert is_extended(acl(text)) == extended


def test_chmod_sets_the_mask_if_there_is_one() -> None:
    assert after_chmod(acl("u7 g5 o1"), 0o6640) == acl("u6 g4 o0")
    assert after_chmod(acl("u7 U1:7 g5 m5 o1"), 0o620) == acl("u6 U1:7 g5 m2 o0")


def test_what_is_made_has_what_both_the_folder_and_its_maker_give() -> None:
    default = acl("u7 U1:7 g5 m7 o5")
    assert at_birth(default, 0o640) == acl("u6 U1:7 g5 m4 o0")
    assert at_birth(acl("u5 g6 o5"), 0o777) == acl("u5 g6 o5")
    assert mode_of(at_birth(default, 0o666)) == 0o664


def some_list(choices: random.Random) -> bytes:
    """Mostly valid."""
    parts = ["u%d", *("U1000:%d",) * choices.randrange(2), "g%d", *("G7:%d",) * choices.randrange(2)]
    named = any(":" in part for part in parts)
    parts += ["m%d"] * (named or choices.random() < 0.2) + ["o%d"]
    if choices.random() < 0.2:
        parts.insert(choices.randrange(len(parts)), parts.pop(choices.randrange(len(parts))))
    if choices.random() < 0.1:
        parts.pop()
    return format_acl(acl(" ".join(part % choices.randrange(8) for part in parts)))


def test_the_kernel_finds_the_same_lists_wrong(tmp_path) -> None:
    choices = random.Random(1)
    path = tmp_path / "f"
    path.touch()
    verdicts = set()
    for _ in range(300):
        value = some_list(choices)
        try:
            os.setxattr(path, ACCESS, value)
            refused = 0
        except OSError as error:
            refused = error.errno
            if refused == errno.EOPNOTSUPP:
                pytest.skip("no access control lists in the folder for temporary files")
        verdicts.add(refused)
        if refused:
            assert refused == errno.EINVAL
            with invalid():
                parse_acl(value)
        else:
            assert path.stat().st_mode & 0o777 == mode_of(parse_acl(value))
    assert verdicts == {0, errno.EINVAL}
