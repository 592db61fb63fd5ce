"""What keeps journal segments from being removed, and which spilled bytes wait for a commit.

A segment is needed by its entries that are not settled, by its held operations, and by its live spill
records. A spill record lives until an entry that supersedes it has been committed: one that has its bytes and
the size the file had then. The size is bytes, too: those of a hole at the end are in no extent.
"""

from collections.abc import Iterator

from cloudverge_mount.spillrecord import Spilled


class Needs:
    """How many records of each segment are still needed."""

    def __init__(self) -> None:
        self._uses: dict[int, int] = {}

    def add(self, segment: int) -> None:
        """A record of this segment is needed."""
        self._uses[segment] = self._uses.get(segment, 0) + 1

    def drop(self, segment: int) -> None:
        """It is not any more."""
        left = self._uses[segment] - 1
        if left:
            self._uses[segment] = left
        else:
            del self._uses[segment]

    def first(self, otherwise: int) -> int:
        """The oldest segment needed."""
        return min(self._uses, default=otherwise)


class SpillBook:
    """The live spill records by inode: (number, segment of the journal, size of the file), oldest first."""

    def __init__(self, needs: Needs) -> None:
        self._needs = needs
        self._live: dict[int, list[tuple[int, int, int]]] = {}
        self._ends: dict[int, int] = {}  # inode -> highest file offset spilled while it had live records
        self._entered: dict[int, int] = {}  # inode -> highest number superseded by an accepted entry

    def __contains__(self, ino: int) -> bool:
        return ino in self._live

    def __iter__(self) -> Iterator[int]:
        return iter(self._live)

    def add(self, record: Spilled, segment: int, size: int) -> bool:
        """A record of a file of ``size`` stands in ``segment``; whether it may cover bytes of an earlier one."""
        ino, end = record.ino, self._ends.get(record.ino, 0)
        self._live.setdefault(ino, []).append((record.number, segment, size))
        self._needs.add(segment)
        self._ends[ino] = max(end, record.end)
        return record.offset < end

    def resized(self, ino: int, size: int) -> None:
        """The size of the file was set, and the journal says so."""
        live = self._live.get(ino)
        if live is None:
            return
        if size > live[-1][2]:
            live[-1] = (*live[-1][:2], size)
        else:
            live[:] = [(number, segment, min(had, size)) for number, segment, had in live]

    def superseded(self, ino: int, through: int, size: int) -> int:
        """Up to which number, at most ``through``, an entry supersedes the records if it states this size."""
        entered = self._entered.get(ino, 0)
        for number, _, had in self._live.get(ino, ()):
            if entered < number <= through and had > size:
                return number - 1
        return through

    def last(self, ino: int) -> int:
        """The highest live number of an inode, 0 if there is none."""
        live = self._live.get(ino)
        return live[-1][0] if live else 0

    def has_fresh(self, ino: int) -> bool:
        """Whether there is a record that no accepted entry supersedes."""
        return self.last(ino) > self._entered.get(ino, 0)

    def entered(self, ino: int, through: int) -> None:
        """An entry has been accepted that supersedes the records numbered ``through`` or lower."""
        if ino in self._live:
            self._entered[ino] = max(through, self._entered.get(ino, 0))

    def committed(self, ino: int, through: int) -> None:
        """That entry has been committed."""
        live = self._live.get(ino)
        if live is None:
            return
        for number, segment, _ in live:
            if number <= through:
                self._needs.drop(segment)
        kept = [record for record in live if record[0] > through]
        if kept:
            self._live[ino] = kept
        else:
            del self._live[ino], self._ends[ino]
            self._entered.pop(ino, None)
