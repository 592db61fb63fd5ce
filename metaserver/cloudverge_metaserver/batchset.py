"""The working set of one transaction: rows loaded from the database, what became of them, and undo.

The rules see dictionaries. ``mark`` and ``undo`` take back one entry that was applied but may not stay (the
quota is checked afterwards); what was changed between loading and the end is all that is written back. Rows
that were not loaded read as absent: loading by ``keys`` is what makes that true.

A set may outlive its transaction (``settle``): then ``known`` says which keys need not be loaded again.

Invariants: ``undo`` restores exactly what was there at the last ``mark``, the notes of changes included; a
changed key that is no longer among the rows has been removed.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from cloudverge_metaserver.knownkeys import KnownKeys
from cloudverge_protocol.extents import bytes_in
from cloudverge_protocol.ids import Incarnation, InodeId, Seq
from cloudverge_protocol.inodes import Dentry, Extents, Inode
from cloudverge_protocol.keys import Keys

Name = tuple[InodeId, bytes]
Region = tuple[InodeId, int]
Attribute = tuple[InodeId, bytes]

PIECES_PER_REGION: Final = 131_072  # one for each 512 bytes; as many as a LOAD can give back

_ABSENT: Final = object()
_ROW_BYTES: Final = 300
_EXTENT_BYTES: Final = 200
_NOTHING: Final[Mapping[Any, Any]] = {}


class BatchSet:
    """See the module's text. Those who load and who write back read the dictionaries directly."""

    def __init__(self) -> None:
        self.inodes: dict[InodeId, Inode] = {}
        self.dentries: dict[Name, Dentry] = {}
        self.content: dict[InodeId, dict[int, Extents]] = {}
        self.attributes: dict[InodeId, dict[bytes, bytes]] = {}
        self.orphans: dict[InodeId, Incarnation] = {}
        self.before: dict[Region, Extents] = {}  # regions as they were loaded
        self.known = KnownKeys()
        # keys of what was changed, with the seq of the last change
        self.changed_inodes: dict[InodeId, Seq] = {}
        self.changed_dentries: dict[Name, Seq] = {}
        self.changed_regions: dict[Region, Seq] = {}
        self.changed_attributes: dict[Attribute, Seq] = {}
        self.changed_orphans: dict[InodeId, Seq] = {}
        self._seq = Seq(0)
        self._incarnation = Incarnation(0)
        self._log: list[tuple[dict[Any, Any], Any, Any]] = []
        self._regions_at_mark: dict[Region, Extents] = {}
        self._inodes_at_mark = 0
        self.work = 0  # rows read one by one, and pieces of lists gone through, since the beginning

    # --- loading ---

    def load_inode(self, inode: Inode) -> None:
        self.inodes[inode.ino] = inode

    def load_dentry(self, dentry: Dentry) -> None:
        self.dentries[dentry.parent, dentry.name] = dentry

    def load_region(self, ino: InodeId, region: int, extents: Extents) -> None:
        self.content.setdefault(ino, {})[region] = extents
        self.before[ino, region] = extents

    def load_xattr(self, ino: InodeId, name: bytes, value: bytes) -> None:
        self.attributes.setdefault(ino, {})[name] = value

    def load_orphan(self, ino: InodeId, incarnation: Incarnation) -> None:
        self.orphans[ino] = incarnation

    def unknown(self, keys: Keys) -> Keys:
        """Those of ``keys`` that must be loaded."""
        return self.known.without(keys, self.inodes)

    def settle(self) -> None:
        """What was changed is committed: it is now as if all rows had just been loaded."""
        for ino, region in self.changed_regions:
            extents = self.extents(ino, region)
            if extents:
                self.before[ino, region] = extents
            else:
                self.before.pop((ino, region), None)
        for changed in (
            self.changed_inodes,
            self.changed_dentries,
            self.changed_regions,
            self.changed_attributes,
            self.changed_orphans,
        ):
            changed.clear()
        self._log.clear()

    @property
    def rows(self) -> int:
        """How many rows and known keys there are."""
        return len(self.inodes) + len(self.dentries) + len(self.before) + self.known.count

    def size_bytes(self) -> int:
        """About how much memory the rows take."""
        return (
            sum(_ROW_BYTES + len(inode.target) for inode in self.inodes.values())
            + sum(_ROW_BYTES + len(name) for _, name in self.dentries)
            + sum(_EXTENT_BYTES * len(extents) for extents in self.before.values())
            + sum(len(value) for held in self.attributes.values() for value in held.values())
        )

    # --- one entry ---

    def mark(self, seq: Seq, incarnation: Incarnation) -> None:
        """An entry of this incarnation begins; it will have this seq if it stays."""
        self._seq, self._incarnation = seq, incarnation
        self._log.clear()
        self._regions_at_mark.clear()
        self._inodes_at_mark = len(self.inodes)

    def undo(self) -> None:
        """Back to the last mark."""
        for rows, key, value in reversed(self._log):
            if value is _ABSENT:
                rows.pop(key, None)
            else:
                rows[key] = value
        self._log.clear()
        self._regions_at_mark.clear()

    def inodes_grown(self) -> int:
        """How many inodes more there are than at the last mark."""
        return len(self.inodes) - self._inodes_at_mark

    def bytes_grown(self) -> int:
        """How many bytes more are mapped than at the last mark."""
        return sum(
            bytes_in(self.extents(ino, region)) - bytes_in(old)
            for (ino, region), old in self._regions_at_mark.items()
        )

    def is_too_fragmented(self) -> bool:
        """Whether a region has been given more pieces than one may have since the last mark."""
        return any(
            len(now := self.extents(*key)) > PIECES_PER_REGION and len(now) > len(old)
            for key, old in self._regions_at_mark.items()
        )

    def _put(self, rows: dict[Any, Any], key: Any, value: Any) -> None:  # noqa: ANN401  # rows of any kind
        self._log.append((rows, key, rows.get(key, _ABSENT)))
        rows[key] = value

    def _drop(self, rows: dict[Any, Any], key: Any) -> None:  # noqa: ANN401
        if key in rows:
            self._log.append((rows, key, rows[key]))
            del rows[key]

    # --- the WorkingSet interface ---

    def inode(self, ino: InodeId) -> Inode | None:
        self.work += 1
        return self.inodes.get(ino)

    def put_inode(self, inode: Inode) -> None:
        self._put(self.inodes, inode.ino, inode)
        self._put(self.changed_inodes, inode.ino, self._seq)

    def drop_inode(self, ino: InodeId) -> None:
        for region in tuple(self.content.get(ino, ())):
            self.put_extents(ino, region, ())
        for name in tuple(self.attributes.get(ino, ())):
            self.drop_xattr(ino, name)
        self._drop(self.inodes, ino)
        self._put(self.changed_inodes, ino, self._seq)

    def dentry(self, parent: InodeId, name: bytes) -> Dentry | None:
        return self.dentries.get((parent, name))

    def put_dentry(self, dentry: Dentry) -> None:
        key = (dentry.parent, dentry.name)
        self._put(self.dentries, key, dentry)
        self._put(self.changed_dentries, key, self._seq)

    def drop_dentry(self, parent: InodeId, name: bytes) -> None:
        self._drop(self.dentries, (parent, name))
        self._put(self.changed_dentries, (parent, name), self._seq)

    def regions(self, ino: InodeId) -> Iterable[int]:
        return tuple(self.content.get(ino, ()))

    def extents(self, ino: InodeId, region: int) -> Extents:
        regions = self.content.get(ino)
        return regions.get(region, ()) if regions is not None else ()

    def put_extents(self, ino: InodeId, region: int, extents: Extents) -> None:
        self._regions_at_mark.setdefault((ino, region), self.extents(ino, region))
        self.work += len(extents)
        regions = self.content.setdefault(ino, {})
        if extents:
            self._put(regions, region, extents)
        else:
            self._drop(regions, region)
        self._put(self.changed_regions, (ino, region), self._seq)

    def xattrs(self, ino: InodeId) -> Mapping[bytes, bytes]:
        held = self.attributes.get(ino, _NOTHING)
        self.work += len(held)
        return held

    def put_xattr(self, ino: InodeId, name: bytes, value: bytes) -> None:
        self._put(self.attributes.setdefault(ino, {}), name, value)
        self._put(self.changed_attributes, (ino, name), self._seq)

    def drop_xattr(self, ino: InodeId, name: bytes) -> None:
        self._drop(self.attributes.setdefault(ino, {}), name)
        self._put(self.changed_attributes, (ino, name), self._seq)

    def add_orphan(self, ino: InodeId) -> None:
        self._put(self.orphans, ino, self._incarnation)
        self._put(self.changed_orphans, ino, self._seq)

    def is_orphan(self, ino: InodeId) -> bool:
        return ino in self.orphans

    def drop_orphan(self, ino: InodeId) -> None:
        self._drop(self.orphans, ino)
        self._put(self.changed_orphans, ino, self._seq)
