"""What keeps journal segments from being removed, and which spilled bytes wait for a commit.

A segment is needed by its entries that are not settled, by its held operations, and by its live spill
records. A spill record lives until an entry that supersedes it has been committed.
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
    """The live spill records by inode: (number, segment of the journal), oldest first."""

    def __init__(self, needs: Needs) -> None:
        self._needs = needs
        self._live: dict[int, list[tuple[int, int]]] = {}
        self._ends: dict[int, int] = {}  # inode -> highest file offset spilled while it had live records
        self._entered: dict[int, int] = {}  # inode -> highest number superseded by an accepted entry

    def __contains__(self, ino: int) -> bool:
        return ino in self._live

    def __iter__(self) -> Iterator[int]:
        return iter(self._live)

    def add(self, record: Spilled, segment: int) -> bool:
        """A record stands in ``segment``; whether it may cover bytes that an earlier one has."""
        ino, end = record.ino, self._ends.get(record.ino, 0)
        self._live.setdefault(ino, []).append((record.number, segment))
        self._needs.add(segment)
        self._ends[ino] = max(end, record.end)
        return record.offset < end

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
        for number, segment in live:
            if number <= through:
                self._needs.drop(segment)
        kept = [record for record in live if record[0] > through]
        if kept:
            self._live[ino] = kept
        else:
            del self._live[ino], self._ends[ino]
            self._entered.pop(ino, None)
