"""Import slots of a loaded shared library: find the one of a function and put another function into it.

A library calls what it imports through a table of pointers that the loader has filled in. Replacing a pointer
replaces the function for that library alone. Only 64-bit little-endian ELF, as Linux loads it; whatever is not as
expected raises Unsupported before anything has been changed.
"""

import ctypes
import mmap
import struct
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

PT_DYNAMIC: Final = 2
DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_JMPREL = 2, 5, 6, 7, 8, 23
SYMBOL_BYTES: Final = 24
RELOCATION_BYTES: Final = 24
PROT_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE


class Unsupported(Exception):
    """This cannot be done here; the reason is in the text."""


class _Mapping(NamedTuple):
    start: int
    end: int
    is_Writable: bool


def _mappings(path_part: str) -> list[_Mapping]:
    """Where the library whose path contains ``path_part`` lies in memory, from its start."""
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            words = line.split()
            if len(words) > 5 and path_part in words[5]:
                start, end = (int(part, 16) for part in words[0].split("-"))
                found.append(_Mapping(start, end, "w" in words[1]))
    if not found:
        raise Unsupported(f"{path_part} is not loaded")
    return found


def _u64s(address: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}Q", ctypes.string_at(address, 8 * count))


def _dynamic(base: int) -> dict[int, int]:
    header = ctypes.string_at(base, 64)
    if header[:6] != b"\x7fELF\x02\x01" or sys.maxsize < 1 << 32:
        raise Unsupported("not a 64-bit little-endian library")
    table_offset = struct.unpack_from("<Q", header, 32)[0]
    entry_bytes, entries = struct.unpack_from("<HH", header, 54)
    for number in range(entries):
        at = base + table_offset + number * entry_bytes
        if ctypes.c_uint32.from_address(at).value == PT_DYNAMIC:
            return dict(_tags(base + _u64s(at + 16, 1)[0]))
    raise Unsupported("the library has no dynamic section")


def _tags(address: int) -> Iterator[tuple[int, int]]:
    while True:
        tag, value = _u64s(address, 2)
        if tag == 0:
            return
        yield tag, value
        address += 16


def find_slot(path_part: str, symbol: str) -> int:
    """The address of the pointer through which that library calls ``symbol``."""
    mappings = _mappings(path_part)
    base, limit = mappings[0].start, mappings[-1].end
    tags = _dynamic(base)
    try:
        strings, symbols = (_absolute(tags[tag], base) for tag in (DT_STRTAB, DT_SYMTAB))
    except KeyError:
        raise Unsupported("the library has no symbols") from None
    wanted = symbol.encode()
    for table, size in ((DT_JMPREL, DT_PLTRELSZ), (DT_RELA, DT_RELASZ)):
        if table not in tags:
            continue
        start = _absolute(tags[table], base)
        for at in range(start, start + tags.get(size, 0), RELOCATION_BYTES):
            offset, info = _u64s(at, 2)
            name = ctypes.c_uint32.from_address(symbols + (info >> 32) * SYMBOL_BYTES).value
            if info >> 32 and ctypes.string_at(strings + name) == wanted and base <= base + offset < limit:
                return base + offset
    raise Unsupported(f"the library does not import {symbol}")


def _absolute(value: int, base: int) -> int:
    """glibc has made these addresses absolute, other loaders have not."""
    return value if value >= base else base + value


def swap(path_part: str, symbol: str, pointer: int) -> int:
    """Let that library call ``pointer`` for ``symbol``; returns what it called until now."""
    slot = find_slot(path_part, symbol)
    with _Writable(slot, _mappings(path_part)):
        cell = ctypes.c_uint64.from_address(slot)
        before, cell.value = int(cell.value), pointer
    return before


class _Writable:
    """The page of ``address`` can be written inside this block (it may have been sealed after loading)."""

    def __init__(self, address: int, mappings: list[_Mapping]) -> None:
        self._page = address & ~(mmap.PAGESIZE - 1)
        self._sealed = not any(each.is_Writable for each in mappings if each.start <= address < each.end)
        self._mprotect = ctypes.CDLL(None, use_errno=True).mprotect

    def _set(self, protection: int) -> None:
        if self._sealed and self._mprotect(ctypes.c_void_p(self._page), mmap.PAGESIZE, protection):
            raise Unsupported("the import table cannot be written")

    def __enter__(self) -> None:
        self._set(PROT_READ_WRITE)

    def __exit__(self, *exc_info: object) -> None:
        self._set(mmap.PROT_READ)
