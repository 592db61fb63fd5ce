"""The working set: the rows an operation reads and writes, behind one small interface.

The rules (``rules``) see a namespace only through this. The mount implements it over overlay, cache and
replica; the metaserver over rows loaded from PostgreSQL for one batch; tests over dictionaries
(``MemorySet``). Reading is synchronous: an implementation that does not have a row at hand raises its own
"not loaded" exception through the rules, loads, and runs the operation again, which is safe because rules
read everything they need before their first write.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from cloudverge_protocol.ids import InodeId
from cloudverge_protocol.inodes import Dentry, Extents, Inode


class WorkingSet(Protocol):
    """Rows by key. Absent rows are None or empty; ``put`` replaces a row whole."""

    def inode(self, ino: InodeId) -> Inode | None: ...
    def put_inode(self, inode: Inode) -> None: ...
    def drop_inode(self, ino: InodeId) -> None:
        """The inode ends, and with it its extents and xattrs (the implementation drops those too)."""

    def dentry(self, parent: InodeId, name: bytes) -> Dentry | None: ...
    def put_dentry(self, dentry: Dentry) -> None: ...
    def drop_dentry(self, parent: InodeId, name: bytes) -> None: ...

    def regions(self, ino: InodeId) -> Iterable[int]:
        """The numbers of the regions of ``ino`` that hold at least one extent, in any order."""

    def extents(self, ino: InodeId, region: int) -> Extents: ...
    def put_extents(self, ino: InodeId, region: int, extents: Extents) -> None:
        """Empty ``extents`` drop the region."""

    def xattrs(self, ino: InodeId) -> Mapping[bytes, bytes]: ...
    def put_xattr(self, ino: InodeId, name: bytes, value: bytes) -> None: ...
    def drop_xattr(self, ino: InodeId, name: bytes) -> None: ...

    def add_orphan(self, ino: InodeId) -> None:
        """``ino`` has lost its last name but is open in the session that runs the operation."""

    def is_orphan(self, ino: InodeId) -> bool: ...
    def drop_orphan(self, ino: InodeId) -> None: ...
