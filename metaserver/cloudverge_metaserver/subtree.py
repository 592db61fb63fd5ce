"""What lies below the root of a session's sub-tree, as the namespace is in the transaction that asks.

An inode lies below a folder if one of its names leads there: a file with several names is reached by each of them,
so one inside is enough, and one that was moved out or lost its inner names is outside at once. The root itself
counts, unless it has been removed. What a session has open without a name is its own.

Nothing is remembered between transactions; nothing here changes a row.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.rows import Connection
from cloudverge_metaserver.scope import inodes_named
from cloudverge_protocol.errors import Code, ProtocolFault, Refused
from cloudverge_protocol.ids import ID_MAX, ROOT_INODE, InodeId, SessionId, SpaceId
from cloudverge_protocol.operations import (
    RENAME_EXCHANGE,
    ChunkDone,
    Create,
    Link,
    Operation,
    Reap,
    Rename,
    Rmdir,
    Unlink,
)

NAMES_MAX: Final = 200_000  # that may lie between what is asked for and the root

# (inode, folder that one of its names is in), walked up until the root of the sub-tree or of the space
_NAMES_ABOVE: Final = f"""
    with recursive up as (
        select k.ino, d.parent from unnest($2::bigint[]) k(ino)
        cross join lateral (select parent from meta.dentries where space = $1 and ino + 0 = k.ino offset 0) d
        where k.ino <> $3
        union
        select up.parent, d.parent from up
        cross join lateral (
            select parent from meta.dentries where space = $1 and ino + 0 = up.parent offset 0
        ) d
        where up.parent <> $3
    ) select ino, parent from up limit {NAMES_MAX + 1}
"""  # noqa: S608  # a number of ours; each name once, however many ways lead to it
_PARENTS: Final = """
    select k.ino, d.parent from unnest($2::bigint[]) k(ino)
    cross join lateral (select parent from meta.dentries where space = $1 and ino + 0 = k.ino offset 0) d
"""
_ORPHANS: Final = """
    select o.ino from unnest($2::bigint[]) k(ino)
    cross join lateral (select ino from meta.orphans where space = $1 and ino = k.ino and session = $3 offset 0) o
"""
_OPEN: Final = """
    select o.ino from unnest($2::bigint[]) k(ino)
    cross join lateral (select ino, session from meta.orphans where space = $1 and ino = k.ino offset 0) o
    join meta.sessions ss on ss.session = o.session and ss.user_id = $3 and ss.grant_id = $4
"""
_ROOT: Final = """
    select exists (select from meta.inodes where space = $1 and ino = $2 and (mode & 61440) = 16384 and nlink > 0)
"""


def not_here() -> Refused:
    """The one answer for what is outside and for what does not exist."""
    return Refused(Code.NOT_FOUND, "there is no such file in what you were given")


async def check_root(connection: Connection, identity: Identity) -> None:
    """Refuse a grant whose folder is gone."""
    if not await connection.fetchval(_ROOT, identity.space, identity.root):
        raise Refused(Code.NOT_FOUND, "the folder that was given to you does not exist any more")


async def inside(
    connection: Connection, space: SpaceId, root: InodeId, inodes: Iterable[InodeId]
) -> set[InodeId]:
    """Those of ``inodes`` that lie below ``root``, or are it."""
    wanted = {ino for ino in inodes if 0 < ino <= ID_MAX}
    if root == ROOT_INODE or not wanted:
        return wanted
    if not await connection.fetchval(_ROOT, space, root):
        return set()
    names = await connection.fetch(_NAMES_ABOVE, space, list(wanted), root)
    if len(names) > NAMES_MAX:
        raise ProtocolFault(Code.BAD_REQUEST, "too many names at once: ask for less")
    return wanted & _below(root, ((row[0], row[1]) for row in names))


def _below(root: InodeId, names: Iterable[tuple[int, int]]) -> set[InodeId]:
    """``root``, and what is reached from it by these names: (inode, folder)."""
    held: dict[int, list[int]] = {}
    for ino, folder in names:
        held.setdefault(folder, []).append(ino)
    found: set[int] = {root}
    at: list[int] = [root]
    while at:
        for ino in held.get(at.pop(), ()):
            if ino not in found:
                found.add(ino)
                at.append(ino)
    return {InodeId(ino) for ino in found}


async def readable(connection: Connection, identity: Identity, inodes: Iterable[InodeId]) -> set[InodeId]:
    """Those of ``inodes`` that lie inside, or that a session of this right has open without a name."""
    wanted = set(inodes)
    found = await inside(connection, identity.space, identity.root, wanted)
    rest = [ino for ino in wanted - found if 0 < ino <= ID_MAX]
    if rest:
        rows = await connection.fetch(_OPEN, identity.space, rest, identity.user, identity.grant)
        found.update(InodeId(row[0]) for row in rows)
    return found


@dataclass(slots=True)
class Confinement:
    """What a batch of a confined session may touch; kept up to date while its operations are applied."""

    names: dict[InodeId, int] = field(
        default_factory=dict
    )  # how many names inside each known inode has; the root: 1
    own: set[InodeId] = field(default_factory=set)  # open here without a name

    def check(self, op: Operation) -> None:
        """Refuse an operation on anything outside."""
        if isinstance(op, ChunkDone):
            return
        named = [op.parent] if isinstance(op, Create) else inodes_named(op)  # what it makes is not there yet
        if not all(map(self._holds, named)):
            raise not_here()

    def _holds(self, ino: InodeId) -> bool:
        return self.names.get(ino, 0) > 0 or ino in self.own

    def applied(self, op: Operation, is_orphan: Callable[[InodeId], bool]) -> None:
        """Count what an operation that was applied did to names inside."""
        if isinstance(op, Create) and not op.name:
            self.own.add(op.ino)
        elif isinstance(op, Create | Link):
            self.own.discard(op.ino)
            self.names[op.ino] = self.names.get(op.ino, 0) + 1
        elif isinstance(op, Unlink | Rmdir):
            self._lost(op.ino, is_orphan)
        elif isinstance(op, Rename) and op.target not in (0, op.ino) and not op.flags & RENAME_EXCHANGE:
            self._lost(op.target, is_orphan)
        elif isinstance(op, Reap):
            self.own.discard(op.ino)

    def _lost(self, ino: InodeId, is_orphan: Callable[[InodeId], bool]) -> None:
        self.names[ino] = self.names.get(ino, 0) - 1
        if is_orphan(ino):
            self.own.add(ino)


async def confinement_of(
    connection: Connection, identity: Identity, session: SessionId, ops: Sequence[Operation]
) -> Confinement:
    """What of ``ops`` lies inside now; the space's lock must be held."""
    space, root = identity.space, identity.root
    confined = Confinement()
    wanted = {ino for op in ops for ino in inodes_named(op) if 0 < ino <= ID_MAX}
    if not wanted:
        return confined
    pairs = [(row[0], row[1]) for row in await connection.fetch(_PARENTS, space, list(wanted))]
    folders = await inside(connection, space, root, {root, *(InodeId(parent) for _, parent in pairs)})
    if root in folders:
        confined.names[root] = 1
    for ino, parent in pairs:
        if parent in folders:
            confined.names[InodeId(ino)] = confined.names.get(InodeId(ino), 0) + 1
    rows = await connection.fetch(_ORPHANS, space, list(wanted), session)
    confined.own = {InodeId(row[0]) for row in rows}
    return confined
