"""Which rows an operation meets: a working set that writes down every key that passes through it.

The mount decides by these which operations must keep their order ("a row in common"): two whose sets of keys
are disjoint commute. Keys are tuples that start with the kind of row::

    ("i", ino)  an inode, its orphan mark included      ("d", parent, name)  a name
    ("e", ino)  the extents of an inode                 ("x", ino)           its extended attributes
"""

from collections.abc import Iterable, Mapping

from cloudverge_protocol.ids import InodeId
from cloudverge_protocol.inodes import Dentry, Extents, Inode
from cloudverge_protocol.workset import WorkingSet

RowKey = tuple[str, int] | tuple[str, int, bytes]


class TrackingSet:
    """Passes everything on to ``ws``; ``keys`` are the rows read or written, ``written`` those written."""

    __slots__ = ("_ws", "keys", "written")

    def __init__(self, ws: WorkingSet) -> None:
        self._ws = ws
        self.keys: set[RowKey] = set()
        self.written: set[RowKey] = set()

    def _write(self, *keys: RowKey) -> None:
        self.keys.update(keys)
        self.written.update(keys)

    def inode(self, ino: InodeId) -> Inode | None:
        self.keys.add(("i", ino))
        return self._ws.inode(ino)

    def put_inode(self, inode: Inode) -> None:
        self._write(("i", inode.ino))
        self._ws.put_inode(inode)

    def drop_inode(self, ino: InodeId) -> None:
        self._write(("i", ino), ("e", ino), ("x", ino))
        self._ws.drop_inode(ino)

    def dentry(self, parent: InodeId, name: bytes) -> Dentry | None:
        self.keys.add(("d", parent, name))
        return self._ws.dentry(parent, name)

    def put_dentry(self, dentry: Dentry) -> None:
        self._write(("d", dentry.parent, dentry.name))
        self._ws.put_dentry(dentry)

    def drop_dentry(self, parent: InodeId, name: bytes) -> None:
        self._write(("d", parent, name))
        self._ws.drop_dentry(parent, name)

    def regions(self, ino: InodeId) -> Iterable[int]:
        self.keys.add(("e", ino))
        return self._ws.regions(ino)

    def extents(self, ino: InodeId, region: int) -> Extents:
        self.keys.add(("e", ino))
        return self._ws.extents(ino, region)

    def put_extents(self, ino: InodeId, region: int, extents: Extents) -> None:
        self._write(("e", ino))
        self._ws.put_extents(ino, region, extents)

    def xattrs(self, ino: InodeId) -> Mapping[bytes, bytes]:
        self.keys.add(("x", ino))
        return self._ws.xattrs(ino)

    def put_xattr(self, ino: InodeId, name: bytes, value: bytes) -> None:
        self._write(("x", ino))
        self._ws.put_xattr(ino, name, value)

    def drop_xattr(self, ino: InodeId, name: bytes) -> None:
        self._write(("x", ino))
        self._ws.drop_xattr(ino, name)

    def add_orphan(self, ino: InodeId) -> None:
        self._write(("i", ino))
        self._ws.add_orphan(ino)

    def is_orphan(self, ino: InodeId) -> bool:
        self.keys.add(("i", ino))
        return self._ws.is_orphan(ino)

    def drop_orphan(self, ino: InodeId) -> None:
        self._write(("i", ino))
        self._ws.drop_orphan(ino)
