"""The rows in memory: recent changes not yet in the replica (the overlay) and a bounded cache of others.

One place answers "what is this row now": caches, then changes, then those being written, then SQLite.

- A ``Node`` is an inode's row with what is known of it; the same object stands wherever the inode does.
- Caches have two generations: what is used moves to the young one; when that is full it becomes the old one
  and the old one goes. So they are bounded, and a hit costs a dictionary look-up.
- Changes are kept until a group has been committed to SQLite; ``snapshot`` takes the group, ``written`` ends
  it. While it is written, the rows in it are found in ``_flushing``, and until the next one is, in ``_recent``: what
  was loaded ahead has often been written by the time it is asked for, and SQLite costs ten times as much to ask.
- Unknown and absent are different: ``node`` gives None for unknown and a node without a row for absent,
  ``name`` gives UNKNOWN, a dentry, or None for absent.

A folder is *resident* while all its names are in memory: then absence needs no look into SQLite.
"""

import stat
from collections.abc import Collection
from typing import Any, Final

from cloudverge_mount.changes import Changes, Node
from cloudverge_mount.filerows import FileRows
from cloudverge_mount.replica import EXTENTS, LISTED, XATTRS, Group, Listed, Replica
from cloudverge_protocol.ids import DentryId, InodeId
from cloudverge_protocol.inodes import Dentry, Extents, Inode

NODES_MAX: Final = 15_000  # of one generation
NAMES_MAX: Final = 20_000
CROWDED: Final = 24_000  # changed rows above which newcomers wait for the writer
WHOLE_FILE: Final = EXTENTS | XATTRS
WHOLE_FOLDER: Final = EXTENTS | XATTRS | LISTED


class _Unknown:
    """The type of UNKNOWN."""


UNKNOWN: Final = _Unknown()
_MISSING: Final = object()


class Rows(FileRows):
    """All rows this mount knows, over ``replica``."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.orphans = replica.orphans()
        self.changes = Changes()
        self.epoch = 0  # raised whenever SQLite's state or the caches change as a whole
        self._flushing = Changes()
        self._recent = Changes()  # the group written last; whatever is newer is in the others
        self._recent_whole: set[int] = set()  # folders of which SQLite has no names but those in it
        self._resident: set[int] = set()
        self._unstored: set[int] = set()  # folders with changed names of which SQLite has none
        self._nodes: dict[int, Node] = {}
        self._old_nodes: dict[int, Node] = {}
        self._names: dict[tuple[int, bytes], Dentry | None] = {}
        self._old_names: dict[tuple[int, bytes], Dentry | None] = {}
        self._regions: dict[tuple[int, int], Extents] = {}
        self._xattrs: dict[int, dict[bytes, bytes]] = {}

    @property
    def being_written(self) -> Changes:
        """Changes on their way to SQLite."""
        return self._flushing

    @property
    def crowded(self) -> bool:
        """Whether changes come faster than they are written."""
        return self.changes.count + self._flushing.count > CROWDED

    # --- inodes ------------------------------------------------------------------------------------------

    def node(self, ino: int) -> Node | None:
        """The node of ``ino``; None if nothing is known of it."""
        node = self._nodes.get(ino)
        return self._find_node(ino) if node is None else node

    def node_in_memory(self, ino: int) -> Node | None:
        """The same without a look into SQLite, and without moving it up in the cache."""
        return self._nodes.get(ino) or self._less_used(ino)

    def _less_used(self, ino: int) -> Node | None:
        return (
            self._old_nodes.get(ino)
            or self.changes.nodes.get(ino)
            or self._flushing.nodes.get(ino)
            or self._recent.nodes.get(ino)
        )

    def _find_node(self, ino: int) -> Node | None:
        node = self._less_used(ino)
        if node is None:
            found = self.replica.inode(ino)
            if found is None:
                return None
            node = Node(*found)
        self._cache_node(ino, node)
        return node

    def _cache_node(self, ino: int, node: Node) -> None:
        if len(self._nodes) >= NODES_MAX:
            self._old_nodes, self._nodes = self._nodes, {}
        self._nodes[ino] = node

    def put_inode(self, inode: Inode) -> None:
        """The inode's row is now this; one that was not known here is new, and all of it is known."""
        ino = inode.ino
        node = self._nodes.get(ino) or self._find_node(ino)
        if node is None or node.row is None:
            self.put_new_inode(inode)
        else:
            node.row = inode
            self.changes.nodes[ino] = node

    def put_new_inode(self, inode: Inode) -> None:
        """An inode that was made here just now."""
        folder = stat.S_ISDIR(inode.mode)
        node = Node(inode, WHOLE_FOLDER if folder else WHOLE_FILE)
        if folder:
            self._resident.add(inode.ino)
            self._unstored.add(inode.ino)
        self._cache_node(inode.ino, node)
        self.changes.nodes[inode.ino] = node

    def drop_inode(self, ino: int) -> None:
        """The inode is gone, and its extents and attributes with it."""
        node = self._nodes.get(ino) or self._find_node(ino)
        if node is None:
            node = Node(None, WHOLE_FOLDER)
            self._cache_node(ino, node)
        node.row, node.known = None, WHOLE_FOLDER
        changes = self.changes
        changes.nodes[ino] = node
        changes.regions.pop(ino, None)
        changes.xattrs.pop(ino, None)
        self._resident.discard(ino)
        if self._regions:
            self._forget_regions(ino)
        self._xattrs.pop(ino, None)

    def _forget_regions(self, ino: int) -> None:
        if (ino, 0) in self._regions:
            del self._regions[ino, 0]

    def mark(self, ino: int, marks: int) -> None:
        """From now on these are known of the inode, whose node must be."""
        node = self.node(ino)
        if node is None or node.row is None or node.known & marks == marks:
            return
        node.known |= marks
        self.changes.nodes[ino] = node
        if marks & LISTED:
            self.changes.listed.add(ino)

    def put_absent(self, ino: int) -> None:
        """The server has no such inode."""
        self._cache_node(ino, Node(None, WHOLE_FOLDER))

    # --- names -------------------------------------------------------------------------------------------

    def name(self, parent: int, name: bytes) -> Dentry | _Unknown | None:
        """The dentry, None if the name is known to be absent, or UNKNOWN."""
        found: Any = self._names.get((parent, name), _MISSING)
        if found is _MISSING:
            return self._find_name(parent, name)
        return found  # type: ignore[no-any-return]

    def _find_name(self, parent: int, name: bytes) -> Dentry | _Unknown | None:
        key = (parent, name)
        found: Any = self._old_names.get(key, _MISSING)
        if found is _MISSING:
            found = self._name_at_hand(parent, name)
        if found is _MISSING:
            found = self._stored_name(parent, name)
            if isinstance(found, _Unknown):
                return found
        entry: Dentry | None = found
        self._cache_name(key, entry)
        return entry

    def _name_at_hand(self, parent: int, name: bytes) -> Any:  # noqa: ANN401
        for rows in (self.changes, self._flushing, self._recent):
            place = rows.names.get(parent)
            if place is not None and name in place:
                return place[name]
        return _MISSING

    def _stored_name(self, parent: int, name: bytes) -> Dentry | _Unknown | None:
        if parent in self._resident:
            return None
        stored = self.replica.name(parent, name)
        if stored is not None:
            dentry, ino, kind = stored
            return Dentry(InodeId(parent), name, InodeId(ino), kind, DentryId(dentry)) if ino else None
        node = self.node(parent)
        return None if node is not None and node.known & LISTED else UNKNOWN

    def _cache_name(self, key: tuple[int, bytes], dentry: Dentry | None) -> None:
        if len(self._names) >= NAMES_MAX:
            self._drop_old_names()
        self._names[key] = dentry

    def _drop_old_names(self) -> None:
        gone, self._old_names, self._names = self._old_names, self._names, {}
        if self._resident:
            self._resident.difference_update({parent for parent, _ in gone})

    def put_name(self, dentry: Dentry) -> None:
        """The name leads here now."""
        key = (dentry.parent, dentry.name)
        self._cache_name(key, dentry)
        self._change_name(key, dentry)

    def drop_name(self, parent: int, name: bytes) -> None:
        """The name is gone."""
        key = (parent, name)
        self._cache_name(key, None)
        self._change_name(key, None)

    def put_loaded_name(self, dentry: Dentry) -> None:
        """A name of which nothing was known; it does not displace what is in use from the cache."""
        self._change_name((dentry.parent, dentry.name), dentry)

    def _change_name(self, key: tuple[int, bytes], dentry: Dentry | None) -> None:
        parent, name = key
        changed = self.changes.names.get(parent)
        if changed is None:
            changed = self.changes.names[parent] = {}
        changed[name] = dentry
        self.changes.names_count += 1

    # --- listing -----------------------------------------------------------------------------------------

    def changed_names(self, parent: int) -> dict[bytes, Dentry | None]:
        """What SQLite does not have yet of a folder's names; None: gone."""
        older, newer = self._flushing.names.get(parent), self.changes.names.get(parent)
        if older is None or newer is None:
            return older or newer or {}
        return {**older, **newer}

    def stored_among(self, parent: int, names: list[bytes], named: Collection[int]) -> set[bytes]:
        """Those of a folder's ``names`` that SQLite knows something of; the folder is about to get names.

        ``named`` are folders of which SQLite has names in this ``epoch``; this one among them, if it has.
        """
        if parent in self._unstored:
            return set()
        if parent in named:
            return self.replica.names_among(parent, names)
        self._unstored.add(parent)
        return set()

    def page(self, parent: int, after: int, limit: int) -> list[Listed]:
        """Up to ``limit`` names with ids above ``after``, in order; the folder must be LISTED.

        Rows come along where SQLite gave them; the caller prefers what is in memory.
        """
        changed = self.changed_names(parent)
        is_at_hand = parent in self._unstored
        if parent in self._recent_whole:
            changed, is_at_hand = {**self._recent.names[parent], **changed}, True
        if not changed:
            return self.replica.page(parent, after, limit)
        while True:
            stored = [] if is_at_hand else self.replica.page(parent, after, limit)
            full = len(stored) == limit
            bound = stored[-1][0] if full else None
            merged = [item for item in stored if item[1] not in changed]
            merged.extend(
                (entry.dentry, entry.name, entry.ino, entry.kind, None, 0)
                for entry in changed.values()
                if entry is not None and entry.dentry > after and (bound is None or entry.dentry <= bound)
            )
            if merged or bound is None:
                return sorted(merged)[:limit]
            after = bound

    # --- to SQLite ---------------------------------------------------------------------------------------

    def snapshot(self, state: list[tuple[str, Any]]) -> Group:
        """Take all changes out as a group to be written; ``written`` must follow before the next one."""
        changes, self.changes = self.changes, Changes()
        self._flushing = changes
        dentries, gone = self._names_to_write(changes)
        return Group(
            [(ino, node.row, node.known) for ino, node in changes.nodes.items()],
            dentries,
            gone,
            [(ino,) for ino in changes.listed],
            [(ino, region, e) for ino, held in changes.regions.items() for region, e in held.items()],
            list(changes.xattrs.items()),
            [(ino,) for ino in changes.orphans],
            [(ino,) for ino in changes.not_orphans],
            state,
        )

    def _names_to_write(
        self, changes: Changes
    ) -> tuple[list[tuple[int, bytes, int, int, int]], list[tuple[int, bytes]]]:
        dentries: list[tuple[int, bytes, int, int, int]] = []
        gone: list[tuple[int, bytes]] = []
        for parent, names in changes.names.items():
            node = self.node_in_memory(parent) or self.node(parent)
            listed = node is None or node.row is None or bool(node.known & LISTED)
            for name, entry in names.items():
                if entry is not None:
                    dentries.append((parent, name, entry.dentry, entry.ino, entry.kind))
                elif listed:
                    gone.append((parent, name))
                else:
                    dentries.append((parent, name, 0, 0, 0))
        return dentries, gone

    def written(self) -> None:
        """The group of the last snapshot is in SQLite."""
        self._recent_whole = self._unstored.intersection(self._flushing.names)
        self._unstored.difference_update(self._flushing.names, self._flushing.nodes)
        self._recent, self._flushing = self._flushing, Changes()
        self.epoch += 1

    def not_written(self) -> None:
        """The group could not be written: its rows are changes still, where nothing newer is."""
        self.changes.add_older(self._flushing)
        self._flushing = Changes()

    def clear(self) -> None:
        """Forget all that is cached; there must be no changes."""
        assert not self.changes.count
        for cache in (
            self._nodes,
            self._old_nodes,
            self._names,
            self._old_names,
            self._regions,
            self._xattrs,
        ):
            cache.clear()
        self._recent = Changes()
        self._recent_whole.clear()
        self._resident.clear()
        self._unstored.clear()
        self.epoch += 1
