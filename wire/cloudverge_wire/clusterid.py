"""The cluster's name to itself: cluster id and history id, one row that all servers on a database share.

The cluster id never changes. The history id is new after a restore or an unclean promotion of the database:
who knows another one must not trust what it remembers. Whichever server starts first makes the row.
"""

import re
import secrets
from dataclasses import dataclass

from cloudverge_protocol.errors import Code, ProtocolFault
from cloudverge_wire.migrate import Database, locked

ID_PATTERN = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class ClusterIds:
    """16 random bytes each, in hex."""

    cluster: str
    history: str


async def ensure_cluster(database: Database, wanted: str = "") -> ClusterIds:
    """The ids of this database, made now if it has none (``wanted``: the cluster id to use then).

    Raises ProtocolFault(WRONG_CLUSTER) if the database belongs to another cluster than ``wanted``.
    """
    if wanted and not ID_PATTERN.fullmatch(wanted):
        raise ProtocolFault(Code.INVALID, f"a cluster id is 32 hex digits, not {wanted!r}")
    async with locked(database) as connection:
        if not await connection.fetchval("select to_regclass('public.cluster') is not null"):
            await connection.execute(_TABLE)
        row = await connection.fetchrow("select cluster, history from public.cluster")
        if row is None:
            row = await connection.fetchrow(_INSERT, wanted or secrets.token_hex(16), secrets.token_hex(16))
    assert row is not None
    if wanted and row["cluster"] != wanted:
        raise ProtocolFault(
            Code.WRONG_CLUSTER, f"this database belongs to cluster {row['cluster']}, not {wanted}"
        )
    return ClusterIds(row["cluster"], row["history"])


_INSERT = "insert into public.cluster (cluster, history) values ($1, $2) returning cluster, history"

_TABLE = """
create table public.cluster (
    one boolean primary key default true check (one),    -- at most one row
    cluster text not null,                               -- 32 hex digits, for ever
    history text not null                                -- 32 hex digits, new when the past may have changed
);
grant select, insert on public.cluster to public;
"""
