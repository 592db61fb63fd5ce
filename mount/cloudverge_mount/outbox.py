"""The entries that wait for the metaserver, in their order.

Entries lie here encoded, as they stand in the journal, up to ``ITEMS_MAX`` of them; what comes beyond (a long
time away from the network) is only counted, and read back from the journal file when there is room again.

``pushed`` and ``settled`` count entries since the start: whoever wants "everything up to now" remembers
``pushed`` and waits until ``settled`` has reached it.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec

from cloudverge_mount.journal import Found, segment_of
from cloudverge_mount.records import ENTRY, RELEASED, WRITE, Receipts, ReleasedRecord, WriteRecord
from cloudverge_protocol.codec import decode
from cloudverge_protocol.operations import Entry, Op, Write

ITEMS_MAX: Final = 20_000


class Item(NamedTuple):
    """One entry. ``settles``: (inode, spill number) that its commit supersedes; ``growth``: for the quota."""

    incarnation: int
    number: int
    raw: bytes
    segment: int
    receipts: Receipts = ()
    settles: tuple[int, int] | None = None
    growth_bytes: int = 0
    growth_inodes: int = 0


def entry_of(item: Item) -> Entry:
    """The entry in an item."""
    return decode(Entry, item.raw)


def item_of(found: Found) -> Item | None:
    """The item that a journal record holds, if it is an entry."""
    if found.kind == ENTRY:
        entry = decode(Entry, found.payload)
        return Item(entry.incarnation, entry.number, bytes(found.payload), segment_of(found.position))
    if found.kind == WRITE:
        written = decode(WriteRecord, found.payload)
        return _item(written.entry, written.receipts, written.spilled_through, found)
    if found.kind == RELEASED:
        released = decode(ReleasedRecord, found.payload)
        return _item(released.entry, released.receipts, released.spilled_through, found)
    return None


def _item(raw: msgspec.Raw, receipts: Receipts, through: int, found: Found) -> Item:
    entry = decode(Entry, bytes(raw))
    settles = (_subject(entry.op), through) if through else None
    return Item(entry.incarnation, entry.number, bytes(raw), segment_of(found.position), receipts, settles)


def _subject(op: Op) -> int:
    assert isinstance(op, Write)
    return op.ino


class Outbox:
    """First in, first out. ``reread(position)`` gives journal records from there on."""

    def __init__(self, reread: Callable[[int], Iterator[Found]]) -> None:
        self._reread = reread
        self._items: deque[Item] = deque()
        self._beyond = 0  # position in the journal of the first entry that is not in memory
        self._beyond_count = 0
        self._aside: set[tuple[int, int]] = set()  # of those beyond: set aside already
        self.pushed = 0
        self.settled = 0
        self.on_push: Callable[[], None] = _nothing

    def __len__(self) -> int:
        return len(self._items) + self._beyond_count

    def push(self, item: Item, position: int) -> None:
        """Take the entry that stands at ``position`` of the journal."""
        self.pushed += 1
        if self._beyond_count or len(self._items) >= ITEMS_MAX:
            if not self._beyond_count:
                self._beyond = position
            self._beyond_count += 1
        else:
            self._items.append(item)
        self.on_push()

    def first(self, count: int, size_bytes: int) -> list[Item]:
        """The next entries to ship, at least one if there is any."""
        self._refill()
        taken: list[Item] = []
        for item in self._items:
            size_bytes -= len(item.raw)
            if len(taken) >= count or (taken and size_bytes < 0):
                break
            taken.append(item)
        return taken

    def done(self, count: int) -> list[Item]:
        """The first ``count`` entries need not be shipped any more."""
        gone = [self._items.popleft() for _ in range(count)]
        self.settled += count
        return gone

    def remove(self, chosen: set[tuple[int, int]]) -> list[Item]:
        """Take these (incarnation, number) out of the order."""
        gone = [item for item in self if (item.incarnation, item.number) in chosen]
        in_memory = len(self._items)
        self._items = deque(item for item in self._items if (item.incarnation, item.number) not in chosen)
        beyond = len(gone) - (in_memory - len(self._items))
        if beyond:
            self._aside |= chosen
            self._beyond_count -= beyond
        self.settled += len(gone)
        return gone

    def __iter__(self) -> Iterator[Item]:
        yield from tuple(self._items)
        if self._beyond_count:
            yield from (item for item, _ in self._stored())

    def _stored(self) -> Iterator[tuple[Item, int]]:
        for found in self._reread(self._beyond):
            item = item_of(found)
            if item is not None and (item.incarnation, item.number) not in self._aside:
                yield item, found.end

    def _refill(self) -> None:
        if not self._beyond_count or len(self._items) > ITEMS_MAX // 4:
            return
        for item, end in self._stored():
            self._items.append(item)
            self._beyond, self._beyond_count = end, self._beyond_count - 1
            if len(self._items) >= ITEMS_MAX or not self._beyond_count:
                break
        if not self._beyond_count:
            self._aside.clear()


def _nothing() -> None:
    """Nobody wants to know."""
