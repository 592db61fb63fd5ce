"""Where inodes are and were: their names by what was told in the audit, and by the namespace as it is.

The audit says when an inode was given a name or lost one, so a path can be told as it was at any line. What was there
before the audit began (or before what is kept of it) is looked up in the namespace of now.

All is asked for many inodes at once, level by level upwards, and remembered while one request is answered.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from cloudverge_metaserver.rows import Connection
from cloudverge_protocol.ids import ROOT_INODE, InodeId, SpaceId

DEPTH_MAX: Final = 1024
NOWHERE: Final = InodeId(0)

_AS_OF: Final = """
    select k.ino, k.n, coalesce(b.parent, a.parent), coalesce(b.name, a.name)
    from unnest($2::bigint[], $3::bigint[]) k(ino, n)
    left join lateral (
        select coalesce(new_parent, parent) as parent, coalesce(new_name, name) as name from meta.audit
        where space = $1 and ino = k.ino and n <= k.n and name is not null order by n desc limit 1
    ) b on true
    left join lateral (
        select parent, name from meta.audit where space = $1 and ino = k.ino and n > k.n and name is not null
            and action in ('renamed', 'removed', 'replaced') and b.parent is null order by n limit 1
    ) a on true
"""
_NOW: Final = """
    select k.ino, d.parent, d.name from unnest($2::bigint[]) k(ino)
    cross join lateral (
        select parent, name from meta.dentries where space = $1 and ino + 0 = k.ino order by dentry limit 1
    ) d
"""
_PARENTS: Final = """
    select k.ino, coalesce(i.parent, a.parent, d.parent, 0) from unnest($2::bigint[]) k(ino)
    left join lateral (
        select parent from meta.inodes where space = $1 and ino = k.ino and parent <> 0 offset 0
    ) i on true
    left join lateral (
        select coalesce(new_parent, parent) as parent from meta.audit
        where space = $1 and ino = k.ino and name is not null and i.parent is null order by n desc limit 1
    ) a on true
    left join lateral (
        select parent from meta.dentries
        where space = $1 and ino + 0 = k.ino and i.parent is null and a.parent is null order by dentry limit 1
    ) d on true
"""


class Moment(NamedTuple):
    """An inode as of a line of the audit."""

    ino: InodeId
    n: int


class Whereabouts:
    """Of one space, for one request."""

    def __init__(self, connection: Connection, space: SpaceId) -> None:
        self._connection, self._space = connection, space
        self._names: dict[Moment, tuple[InodeId, bytes] | None] = {}
        self._parents: dict[InodeId, InodeId] = {ROOT_INODE: ROOT_INODE, NOWHERE: NOWHERE}

    # --- as it was ------------------------------------------------------------------------------------

    async def learn(self, moments: Iterable[Moment]) -> None:
        """Ask for the names of these and of all that was above them; ``path`` knows them then."""
        level = {moment for moment in moments if self._is_news(moment)}
        for _ in range(DEPTH_MAX):
            if not level:
                return
            await self._learn(list(level))
            above = {Moment(named[0], moment.n) for moment in level if (named := self._names[moment])}
            level = {moment for moment in above if self._is_news(moment)}

    def _is_news(self, moment: Moment) -> bool:
        return moment.ino != ROOT_INODE and moment not in self._names

    async def _learn(self, moments: list[Moment]) -> None:
        inos, numbers = zip(*moments, strict=True)
        unknown = []
        for ino, n, parent, name in await self._connection.fetch(_AS_OF, self._space, inos, numbers):
            self._names[Moment(ino, n)] = None if parent is None else (parent, name)
            if parent is None:
                unknown.append(ino)
        found = {}
        if unknown:
            rows = await self._connection.fetch(_NOW, self._space, list(set(unknown)))
            found = {row[0]: (row[1], row[2]) for row in rows}
        for moment in moments:
            if self._names[moment] is None:
                self._names[moment] = found.get(moment.ino)

    def named(self, moment: Moment) -> tuple[InodeId, bytes] | None:
        """Folder and name of an inode that was learnt."""
        return self._names.get(moment)

    def path(self, folder: Moment, name: bytes, root: InodeId) -> list[bytes] | None:
        """The names from ``root`` to ``name`` in ``folder``, which was learnt; None if it was not below ``root``."""
        names, at = [name], folder
        for _ in range(DEPTH_MAX):
            if at.ino == root:
                return names[::-1]
            known = self._names.get(at)
            if known is None:
                return None
            at, above = Moment(known[0], at.n), known[1]
            names.append(above)
        return None

    # --- as it is -------------------------------------------------------------------------------------

    async def learn_parents(self, inos: Iterable[InodeId]) -> None:
        """Ask for what is above these now (or was, when they were removed); ``is_below`` knows it then."""
        level = {ino for ino in inos if ino not in self._parents}
        for _ in range(DEPTH_MAX):
            if not level:
                return
            rows = await self._connection.fetch(_PARENTS, self._space, list(level))
            self._parents.update((InodeId(ino), InodeId(parent)) for ino, parent in rows)
            level = {parent for ino in level if (parent := self._parents[ino]) not in self._parents}

    def is_below(self, ino: InodeId, folder: InodeId) -> bool:
        """Whether ``ino``, which was learnt, is ``folder`` or somewhere below it."""
        for _ in range(DEPTH_MAX):
            if ino == folder:
                return True
            above = self._parents.get(ino, NOWHERE)
            if above in (ino, NOWHERE):
                return False
            ino = above
        return False
