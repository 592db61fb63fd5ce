"""What is uploaded when, and what goes together into one append. Pure: time and sizes are passed in.

Files with unsent bytes wait in one of two queues (*aging*: still being written; *closing*: closed, gathered
for a moment so that many small files share an append) until they are due, and are then *ready* in one of
two lanes. The lanes append to chunks of their own, so that an fsync of 4 KiB never queues behind a stream:

- ``small``: files with little to send, one after another; those somebody waits for (*urgent*) first;
- ``bulk``: streams. A file that once had ``bulk_bytes`` unsent stays in this lane until it is clean, so its
  bytes lie in one chunk in their order. It is taken in whole parcels; what is left over waits to be due.

Closed files are due together: when the oldest has waited ``gather_s``, or all of them come to a parcel.

Invariant: a file with unsent bytes is in exactly one queue (``forget`` alone takes it out of all).
"""

import enum
from collections.abc import Iterable

from cloudverge_mount.dirty import DirtyFile
from cloudverge_mount.pieces import Taken

MIB = 1024 * 1024
PARCEL_BYTES = 2 * MIB
BULK_BYTES = 1 * MIB
COMPANY_BYTES = 256 * 1024  # what may travel with an urgent file
GATHER_S = 0.06
AGE_S = 1.0
NEVER = float("inf")


class LaneName(enum.StrEnum):
    """The two ways a file's bytes go out."""

    SMALL = "small"
    BULK = "bulk"


class Parcel:
    """What one append carries. ``hurried``: somebody waits for it, or its stream ends here."""

    __slots__ = ("end", "flight", "hurried", "items", "length")

    def __init__(self, flight: int) -> None:
        self.flight = flight
        self.items: list[tuple[DirtyFile, list[Taken]]] = []
        self.length = 0
        self.hurried = False
        self.end = 0  # the chunk offset just past it, once it has one


class Packer:
    """The queues; see the module's text."""

    def __init__(
        self, parcel_bytes: int = PARCEL_BYTES, bulk_bytes: int = BULK_BYTES,
        gather_s: float = GATHER_S, age_s: float = AGE_S,
    ) -> None:  # fmt: skip
        self._parcel_bytes = parcel_bytes
        self._bulk_bytes = bulk_bytes
        self._gather_s = gather_s
        self._age_s = age_s
        self._aging: dict[DirtyFile, float] = {}  # file -> due; in the order of their dues
        self._closing: dict[DirtyFile, tuple[float, int]] = {}  # file -> due, bytes counted
        self._closing_bytes = 0
        self._urgent: dict[DirtyFile, None] = {}
        self._small: dict[DirtyFile, None] = {}
        self._bulk: dict[DirtyFile, bool] = {}  # file -> all of it is due
        self._streams: set[DirtyFile] = set()
        self._flights = 0

    # --- what happens to files --------------------------------------------------------------------------

    def wrote(self, file: DirtyFile, now: float) -> float:
        """Bytes were written. When there is something to do because of it (NEVER: no sooner than before)."""
        if file in self._bulk or file in self._small or file in self._urgent:
            return NEVER
        if file.unsent >= self._bulk_bytes:
            self._streams.add(file)
            if file.unsent >= self._parcel_bytes:
                self._unqueue(file)
                self._bulk[file] = False
                return now
        if file in self._aging or file in self._closing:
            return NEVER
        due = self._aging[file] = now + self._age_s
        return due

    def closed(self, file: DirtyFile, now: float) -> float:
        """The file was closed: its bytes go soon. Returns as ``wrote``."""
        if not file.unsent or file in self._closing or file in self._small or file in self._urgent:
            return NEVER
        self._unqueue(file)
        if file in self._streams or file.unsent >= self._bulk_bytes:
            self._streams.add(file)
            self._bulk[file] = True
            return now
        due = now + self._gather_s
        self._closing[file] = (due, file.unsent)
        self._closing_bytes += file.unsent
        return now if self._closing_bytes >= self._parcel_bytes else due

    def hurry(self, file: DirtyFile) -> LaneName:
        """Somebody waits for this file; the lane it goes by."""
        lane = self.lane_of(file)
        if not file.unsent:
            return lane
        self._unqueue(file)
        if lane is LaneName.BULK:
            self._bulk = {file: True, **self._bulk}
        else:
            self._urgent[file] = None
        return lane

    def retry(self, file: DirtyFile) -> None:
        """Bytes of the file came back unsent: they are due at once."""
        if file.unsent and file not in self._urgent and self._bulk.get(file) is not True:
            self._unqueue(file)
            self._make_ready(file)

    def press(self) -> None:
        """Room is short: everything is due now."""
        for file in [*self._aging, *self._closing]:
            self._unqueue(file)
            self._make_ready(file)
        for file in self._bulk:
            self._bulk[file] = True

    def forget(self, file: DirtyFile) -> None:
        """The file is clean or gone."""
        self._unqueue(file)
        self._streams.discard(file)

    # --- what is to be done -----------------------------------------------------------------------------

    def lane_of(self, file: DirtyFile) -> LaneName:
        """The lane that the file's unsent bytes will go by."""
        if file in self._streams or file.unsent >= self._bulk_bytes:
            return LaneName.BULK
        return LaneName.SMALL

    def is_ready(self, lane: LaneName, now: float) -> bool:
        """Whether ``fill`` would find something."""
        self._promote(now)
        return bool(self._bulk) if lane is LaneName.BULK else bool(self._urgent or self._small)

    def next_due(self) -> float:
        """When the first waiting file is due (NEVER: none waits)."""
        aging = next(iter(self._aging.values()), NEVER)
        closing = next(iter(self._closing.values()), (NEVER, 0))[0]
        return min(aging, closing)

    def fill(self, lane: LaneName, limit: int, now: float) -> Parcel | None:
        """The next parcel of this lane, of at most ``limit`` bytes; None if nothing is ready."""
        self._promote(now)
        self._flights += 1
        parcel = Parcel(self._flights)
        if lane is LaneName.BULK:
            self._fill_bulk(parcel, min(limit, self._parcel_bytes), now)
        else:
            limit = min(limit, self._parcel_bytes)
            parcel.hurried = bool(self._urgent)
            self._fill_from(self._urgent, parcel, limit)
            self._fill_from(self._small, parcel, min(limit, COMPANY_BYTES) if parcel.length else limit)
        return parcel if parcel.items else None

    # --- inside -----------------------------------------------------------------------------------------

    def _promote(self, now: float) -> None:
        while self._aging:
            file, due = next(iter(self._aging.items()))
            if due > now:
                break
            self._unqueue(file)
            self._make_ready(file)
        if self._closing:
            due = next(iter(self._closing.values()))[0]
            if due <= now or self._closing_bytes >= self._parcel_bytes:
                ready, self._closing, self._closing_bytes = self._closing, {}, 0
                self._make_all_ready(ready)

    def _make_all_ready(self, files: Iterable[DirtyFile]) -> None:
        for file in files:
            self._make_ready(file)

    def _make_ready(self, file: DirtyFile) -> None:
        if not file.unsent:
            return
        if self.lane_of(file) is LaneName.BULK:
            self._streams.add(file)
            self._bulk[file] = True
        else:
            self._small[file] = None

    def _unqueue(self, file: DirtyFile) -> None:
        self._aging.pop(file, None)
        waited = self._closing.pop(file, None)
        if waited is not None:
            self._closing_bytes -= waited[1]
        self._urgent.pop(file, None)
        self._small.pop(file, None)
        self._bulk.pop(file, None)

    def _fill_from(self, queue: dict[DirtyFile, None], parcel: Parcel, limit: int) -> None:
        while queue and parcel.length < limit:
            file = next(iter(queue))
            self._take(file, parcel, limit)
            if not file.unsent:
                del queue[file]

    def _fill_bulk(self, parcel: Parcel, limit: int, now: float) -> None:
        while self._bulk and parcel.length < limit:
            file, all_due = next(iter(self._bulk.items()))
            self._take(file, parcel, limit)
            if file.unsent and (all_due or file.unsent >= self._parcel_bytes):
                if parcel.length >= limit:
                    del self._bulk[file]
                    self._bulk[file] = all_due  # the other streams have their turn
                continue
            del self._bulk[file]
            if file.unsent:
                self._aging[file] = now + self._age_s
            parcel.hurried = parcel.hurried or all_due

    def _take(self, file: DirtyFile, parcel: Parcel, limit: int) -> None:
        taken = file.take(limit - parcel.length, parcel.flight)
        if taken:
            parcel.items.append((file, taken))
            parcel.length += sum(item.end - item.start for item in taken)
