"""The working set of the mount: the rules' view of ``rows``, with what they write held back until it is journaled.

Rules read everything before their first write, so writes are only collected (``staged``) and put into the rows
by ``commit``, after the journal has taken the operation: a failed write(2) leaves no trace in memory either.

A row that is not here raises ``NotLoaded``, which names what to load; the operation is then run again.
"""

from collections.abc import Iterable, Mapping

from cloudverge_mount.replica import EXTENTS, XATTRS
from cloudverge_mount.rows import UNKNOWN, Rows
from cloudverge_protocol.ids import REGION_BYTES, InodeId
from cloudverge_protocol.inodes import Dentry, Extents, Inode


class NotLoaded(Exception):
    """Not an error, it is answered by loading: these rows must be loaded first. Never leaves the names side."""

    def __init__(
        self,
        *,
        inode: int = 0,
        name: tuple[int, bytes] | None = None,
        folder: int = 0,
        extents: int = 0,
        xattrs: int = 0,
    ) -> None:
        super().__init__(inode, name, folder, extents, xattrs)
        self.inode = inode
        self.name = name
        self.folder = folder
        self.extents = extents
        self.xattrs = xattrs


_Staged = Inode | Dentry | tuple[str, int, bytes | int, bytes | Extents]


class LocalSet:
    """A ``WorkingSet`` over the mount's rows."""

    __slots__ = ("newborn", "rows", "staged")

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.newborn = 0  # the inode that is being created: known not to exist
        self.staged: list[_Staged] = []

    # --- what rules read ---------------------------------------------------------------------------------

    def inode(self, ino: InodeId) -> Inode | None:
        if ino == self.newborn:
            return None
        node = self.rows.node(ino)
        if node is None:
            raise NotLoaded(inode=ino)
        return node.row

    def dentry(self, parent: InodeId, name: bytes) -> Dentry | None:
        found = self.rows.name(parent, name)
        if found is UNKNOWN:
            raise NotLoaded(name=(parent, name))
        return found  # type: ignore[return-value]

    def regions(self, ino: InodeId) -> Iterable[int]:
        if self._size_with(ino, EXTENTS) == 0:
            return ()
        return self.rows.regions(ino)

    def extents(self, ino: InodeId, region: int) -> Extents:
        if self._size_with(ino, EXTENTS) <= region * REGION_BYTES:
            return ()  # no extent lies beyond the size
        return self.rows.extents(ino, region)

    def _size_with(self, ino: int, mark: int) -> int:
        node = self.rows.node(ino)
        if node is None:
            raise NotLoaded(inode=ino)
        if node.row is None:
            return 0
        if not node.known & mark:
            if node.row.size:
                raise NotLoaded(extents=ino)
            self.rows.mark(ino, mark)  # an empty file has none, and what it gets comes from here
        return node.row.size

    def xattrs(self, ino: InodeId) -> Mapping[bytes, bytes]:
        node = self.rows.node(ino)
        if node is None:
            raise NotLoaded(inode=ino)
        if not node.known & XATTRS:
            raise NotLoaded(xattrs=ino)
        return self.rows.xattrs(ino)

    def is_orphan(self, ino: InodeId) -> bool:
        return ino in self.rows.orphans

    # --- what rules write --------------------------------------------------------------------------------

    def put_inode(self, inode: Inode) -> None:
        self.staged.append(inode)

    def drop_inode(self, ino: InodeId) -> None:
        self.staged.append(("drop_inode", ino, b"", b""))

    def put_dentry(self, dentry: Dentry) -> None:
        self.staged.append(dentry)

    def drop_dentry(self, parent: InodeId, name: bytes) -> None:
        self.staged.append(("drop_dentry", parent, name, b""))

    def put_extents(self, ino: InodeId, region: int, extents: Extents) -> None:
        self.staged.append(("put_extents", ino, region, extents))

    def put_xattr(self, ino: InodeId, name: bytes, value: bytes) -> None:
        self.staged.append(("put_xattr", ino, name, value))

    def drop_xattr(self, ino: InodeId, name: bytes) -> None:
        self.staged.append(("drop_xattr", ino, name, b""))

    def add_orphan(self, ino: InodeId) -> None:
        self.staged.append(("add_orphan", ino, b"", b""))

    def drop_orphan(self, ino: InodeId) -> None:
        self.staged.append(("drop_orphan", ino, b"", b""))

    # --- between the two ---------------------------------------------------------------------------------

    def begin(self, newborn: int = 0) -> None:
        """Before a rule is run."""
        self.newborn = newborn
        if self.staged:
            self.staged.clear()

    def ending(self) -> int:
        """The inode that ends with what is staged, 0 for none (an operation ends one at most)."""
        for row in self.staged:
            if type(row) is tuple and row[0] == "drop_inode":
                return row[1]
        return 0

    def commit(self) -> None:
        """The operation stands in the journal: put what it wrote into the rows."""
        rows = self.rows
        for row in self.staged:
            if type(row) is Inode:
                if row.ino == self.newborn:
                    rows.put_new_inode(row)
                else:
                    rows.put_inode(row)
            elif type(row) is Dentry:
                rows.put_name(row)
            else:
                self._commit_other(row)  # type: ignore[arg-type]
        self.staged.clear()
        self.newborn = 0

    def _commit_other(self, row: tuple[str, int, bytes | int, bytes | Extents]) -> None:
        rows, (kind, ino, key, value) = self.rows, row
        match kind:
            case "drop_inode":
                rows.drop_inode(ino)
            case "drop_dentry":
                rows.drop_name(ino, key)  # type: ignore[arg-type]
            case "put_extents":
                rows.put_extents(ino, key, value)  # type: ignore[arg-type]
            case "put_xattr":
                rows.put_xattrs(ino, {**rows.xattrs(ino), key: value})  # type: ignore[dict-item]
            case "drop_xattr":
                values = {name: held for name, held in rows.xattrs(ino).items() if name != key}
                rows.put_xattrs(ino, values)
            case "add_orphan":
                rows.add_orphan(ino)
            case "drop_orphan":
                rows.drop_orphan(ino)
