"""docs/protocol.md says what the code does: its tables are compared with the structs, line by line."""

import inspect
import pathlib
from collections.abc import Iterator

import msgspec
import pytest

from cloudverge_protocol import ids, inodes, messages, operations
from cloudverge_protocol.errors import Code, class_of
from cloudverge_protocol.frames import FLAG_ERROR, FLAG_REPLY, PREFIX_BYTES
from cloudverge_protocol.messages import REPLIES, REQUESTS, FrameType

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "protocol.md"


@pytest.fixture(scope="module")
def lines() -> set[str]:
    return set(DOCUMENT.read_text().splitlines())


def structs() -> Iterator[type[msgspec.Struct]]:
    bases = (messages.Message, operations.Op)
    for module in (messages, operations, inodes):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            is_ours = issubclass(kind, msgspec.Struct) and kind.__module__.startswith(module.__name__)
            if is_ours and kind not in bases:
                yield kind


def described(kind: type[msgspec.Struct]) -> str:
    fields = ", ".join(f.name if f.required else f"{f.name}=" for f in msgspec.structs.fields(kind))
    tag = f"{kind.__struct_config__.tag} | " if issubclass(kind, operations.Op) else ""
    return f"| `{kind.__name__}` | {tag}{fields} |".replace("|  |", "| |")


@pytest.mark.parametrize("kind", [*structs()], ids=lambda kind: kind.__name__)
def test_every_struct_is_described_with_all_its_fields_in_order(
    kind: type[msgspec.Struct], lines: set[str]
) -> None:
    assert described(kind) in lines


@pytest.mark.parametrize("kind", FrameType)
def test_every_frame_type_is_described(kind: FrameType, lines: set[str]) -> None:
    row = f"| {int(kind)} | {kind.name} | `{REQUESTS[kind].__name__}` | `{REPLIES[kind].__name__}` |"
    assert row in lines


def test_nothing_is_described_that_does_not_exist(lines: set[str]) -> None:
    known = {described(kind) for kind in structs()}
    known |= {
        f"| {int(k)} | {k.name} | `{REQUESTS[k].__name__}` | `{REPLIES[k].__name__}` |" for k in FrameType
    }
    tables = {
        line for line in lines if line.startswith("| `") or (line.count("`") == 4 and line.startswith("| "))
    }
    assert {line for line in tables if "cv-" not in line} == known


def test_every_error_code_is_described_under_its_class(lines: set[str]) -> None:
    for kind in {class_of(code) for code in Code}:
        codes = ", ".join(f"{int(code)} {code.name}" for code in Code if class_of(code) is kind)
        (row,) = (line for line in lines if line.startswith(f"| {kind.__name__}:"))
        assert row.endswith(f"| {codes} |")


def test_the_numbers_in_the_text_are_those_of_the_code() -> None:
    text = DOCUMENT.read_text()
    assert f"The protocol version is {ids.PROTOCOL_VERSION}." in text
    assert (PREFIX_BYTES, FLAG_REPLY, FLAG_ERROR) == (24, 1, 2)
    for number in (
        ids.SYMLINK_MAX,
        ids.XATTR_VALUE_MAX,
        ids.XATTR_TOTAL_MAX,
        ids.LINK_MAX,
        ids.FIRST_FREE_ID,
    ):
        assert f"{number:,}" in text
    for mebibytes, limit in (
        (8, ids.MAX_FRAME_HEADER_BYTES),
        (8, ids.MAX_FRAME_BODY_BYTES),
        (4, ids.MAX_APPEND_BYTES),
        (4, ids.MAX_READ_BYTES),
        (64, ids.CHUNK_BYTES),
    ):
        assert limit == mebibytes << 20
        assert f"at most {mebibytes} MiB" in text
