"""A working set over dictionaries: the whole namespace of a space in memory.

Used by tests, by simulations as the model of what a space should look like, and as the reading of what the
``WorkingSet`` interface means. It never says "not loaded": what it does not hold does not exist.
"""

from collections.abc import Iterable, Mapping

from cloudverge_protocol.extents import bytes_in
from cloudverge_protocol.ids import InodeId
from cloudverge_protocol.inodes import Dentry, Extents, Inode, root_inode


class MemorySet:
    """Rows in plain dictionaries; equal sets hold equal rows."""

    def __init__(self) -> None:
        self.inodes: dict[InodeId, Inode] = {}
        self.dentries: dict[tuple[InodeId, bytes], Dentry] = {}
        self.content: dict[InodeId, dict[int, Extents]] = {}  # never holds an empty region or inode
        self.attributes: dict[InodeId, dict[bytes, bytes]] = {}  # the same
        self.orphans: set[InodeId] = set()

    @classmethod
    def with_root(cls, now_ns: int = 0, mode: int = 0o755, uid: int = 0, gid: int = 0) -> "MemorySet":
        """A new space: nothing but its root folder."""
        new = cls()
        new.put_inode(root_inode(now_ns, mode, uid, gid))
        return new

    def copy(self) -> "MemorySet":
        """An independent set with the same rows."""
        new = MemorySet()
        new.inodes = dict(self.inodes)
        new.dentries = dict(self.dentries)
        new.content = {ino: dict(regions) for ino, regions in self.content.items()}
        new.attributes = {ino: dict(values) for ino, values in self.attributes.items()}
        new.orphans = set(self.orphans)
        return new

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MemorySet) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # it changes

    # --- the WorkingSet interface ---

    def inode(self, ino: InodeId) -> Inode | None:
        return self.inodes.get(ino)

    def put_inode(self, inode: Inode) -> None:
        self.inodes[inode.ino] = inode

    def drop_inode(self, ino: InodeId) -> None:
        self.inodes.pop(ino, None)
        self.content.pop(ino, None)
        self.attributes.pop(ino, None)

    def dentry(self, parent: InodeId, name: bytes) -> Dentry | None:
        return self.dentries.get((parent, name))

    def put_dentry(self, dentry: Dentry) -> None:
        self.dentries[dentry.parent, dentry.name] = dentry

    def drop_dentry(self, parent: InodeId, name: bytes) -> None:
        self.dentries.pop((parent, name), None)

    def regions(self, ino: InodeId) -> Iterable[int]:
        return tuple(self.content.get(ino, ()))

    def extents(self, ino: InodeId, region: int) -> Extents:
        regions = self.content.get(ino)
        return regions.get(region, ()) if regions is not None else ()

    def put_extents(self, ino: InodeId, region: int, extents: Extents) -> None:
        if extents:
            self.content.setdefault(ino, {})[region] = extents
        elif (regions := self.content.get(ino)) is not None:
            regions.pop(region, None)
            if not regions:
                del self.content[ino]

    def xattrs(self, ino: InodeId) -> Mapping[bytes, bytes]:
        return self.attributes.get(ino, {})

    def put_xattr(self, ino: InodeId, name: bytes, value: bytes) -> None:
        self.attributes.setdefault(ino, {})[name] = value

    def drop_xattr(self, ino: InodeId, name: bytes) -> None:
        values = self.attributes.get(ino)
        if values is not None:
            values.pop(name, None)
            if not values:
                del self.attributes[ino]

    def add_orphan(self, ino: InodeId) -> None:
        self.orphans.add(ino)

    def is_orphan(self, ino: InodeId) -> bool:
        return ino in self.orphans

    def drop_orphan(self, ino: InodeId) -> None:
        self.orphans.discard(ino)

    # --- for those who look at the whole ---

    def listing(self, parent: InodeId) -> list[Dentry]:
        """The names in a folder, in the order of their ids; walks all dentries."""
        found = [dentry for dentry in self.dentries.values() if dentry.parent == parent]
        return sorted(found, key=lambda dentry: dentry.dentry)

    def file_extents(self, ino: InodeId) -> Extents:
        """All extents of a file."""
        regions = self.content.get(ino, {})
        return tuple(extent for region in sorted(regions) for extent in regions[region])

    @property
    def used_bytes(self) -> int:
        """Logical bytes that count against the quota: those mapped by extents."""
        return sum(bytes_in(part) for regions in self.content.values() for part in regions.values())

    @property
    def used_inodes(self) -> int:
        """Inodes that count against the quota, the root and orphans included."""
        return len(self.inodes)
