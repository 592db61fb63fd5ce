"""What hangs on an inode in the rows: extents by region, extended attributes, being an orphan. See ``rows``."""

from abc import abstractmethod
from typing import Final

from cloudverge_mount.changes import Changes, Node
from cloudverge_mount.replica import HAS_XATTRS, XATTRS, Replica
from cloudverge_protocol.inodes import Extents

REGIONS_MAX: Final = 4_000  # kept at hand
XATTRS_MAX: Final = 500  # sets of them


class FileRows:
    """The part of ``Rows`` that deals in these."""

    replica: Replica
    orphans: set[int]
    changes: Changes
    _flushing: Changes
    _recent: Changes
    _regions: dict[tuple[int, int], Extents]
    _xattrs: dict[int, dict[bytes, bytes]]

    @abstractmethod
    def node(self, ino: int) -> Node | None:
        """The node of ``ino``; None if nothing is known of it."""

    # --- extents and attributes --------------------------------------------------------------------------

    def extents(self, ino: int, region: int) -> Extents:
        """The extents of a region; they must be known."""
        key = (ino, region)
        found = self._regions.get(key)
        if found is None:
            found = self._find_extents(ino, region)
            if len(self._regions) >= REGIONS_MAX:
                self._regions.clear()
            self._regions[key] = found
        return found

    def _find_extents(self, ino: int, region: int) -> Extents:
        for rows in (self.changes, self._flushing, self._recent):
            place = rows.regions.get(ino)
            if place is not None and region in place:
                return place[region]
        return self.replica.extents(ino, region)

    def regions(self, ino: int) -> set[int]:
        """The regions that hold extents; they must be known."""
        held = self.replica.regions(ino)
        for place in (self._flushing.regions.get(ino), self.changes.regions.get(ino)):
            for region, extents in (place or {}).items():
                (held.add if extents else held.discard)(region)
        return held

    def put_extents(self, ino: int, region: int, extents: Extents) -> None:
        """The region holds these now."""
        if len(self._regions) >= REGIONS_MAX:
            self._regions.clear()
        self._regions[ino, region] = extents
        self.changes.regions.setdefault(ino, {})[region] = extents

    def xattrs(self, ino: int) -> dict[bytes, bytes]:
        """The attributes of an inode; they must be known. Not to be changed by the caller."""
        node = self.node(ino)
        if node is None or not node.known & HAS_XATTRS:
            return {}
        found = self._xattrs.get(ino)
        if found is None:
            found = self.changes.xattrs.get(ino) or self._flushing.xattrs.get(ino)
            found = self.replica.xattrs(ino) if found is None else found
            self._cache_xattrs(ino, found)
        return found

    def put_xattrs(self, ino: int, values: dict[bytes, bytes]) -> None:
        """These are all attributes of the inode now."""
        node = self.node(ino)
        if node is None or node.row is None:
            return
        node.known |= XATTRS | HAS_XATTRS  # stays set when the last one goes: it only spares look-ups
        self.changes.nodes[ino] = node
        self.changes.xattrs[ino] = values
        self._cache_xattrs(ino, values)

    def _cache_xattrs(self, ino: int, values: dict[bytes, bytes]) -> None:
        if len(self._xattrs) >= XATTRS_MAX:
            self._xattrs.clear()
        self._xattrs[ino] = values

    # --- orphans -----------------------------------------------------------------------------------------

    def add_orphan(self, ino: int) -> None:
        """The inode has no name any more but is open here."""
        self.orphans.add(ino)
        self.changes.orphans.add(ino)
        self.changes.not_orphans.discard(ino)

    def drop_orphan(self, ino: int) -> None:
        """It has ended."""
        self.orphans.discard(ino)
        self.changes.orphans.discard(ino)
        self.changes.not_orphans.add(ino)
