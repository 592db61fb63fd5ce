"""Rows that have changed in memory and are not in SQLite yet: the overlay, as plain dictionaries."""

from cloudverge_protocol.inodes import Dentry, Extents, Inode


class Node:
    """An inode's row (None: it is gone) and which of the ``replica`` marks hold."""

    __slots__ = ("known", "row")

    def __init__(self, row: Inode | None, known: int) -> None:
        self.row = row
        self.known = known


class Changes:
    """Rows that SQLite does not have yet."""

    __slots__ = ("listed", "names", "names_count", "nodes", "not_orphans", "orphans", "regions", "xattrs")

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.names: dict[int, dict[bytes, Dentry | None]] = {}
        self.names_count = 0
        self.regions: dict[int, dict[int, Extents]] = {}
        self.xattrs: dict[int, dict[bytes, bytes]] = {}
        self.listed: set[int] = set()
        self.orphans: set[int] = set()
        self.not_orphans: set[int] = set()

    @property
    def count(self) -> int:
        """How many rows, about."""
        return len(self.nodes) + self.names_count + len(self.regions) + len(self.xattrs)

    def add_older(self, old: "Changes") -> None:
        """Take in changes that were made before these."""
        self.nodes = {**old.nodes, **self.nodes}
        for parent, names in old.names.items():
            self.names[parent] = {**names, **self.names.get(parent, {})}
        self.names_count += old.names_count
        for ino, regions in old.regions.items():
            node = self.nodes.get(ino)
            if node is None or node.row is not None:
                self.regions[ino] = {**regions, **self.regions.get(ino, {})}
        self.xattrs = {**old.xattrs, **self.xattrs}
        self.listed |= old.listed
        self.orphans |= old.orphans - self.not_orphans
        self.not_orphans |= old.not_orphans - self.orphans
