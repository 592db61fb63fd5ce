"""FEED: what has happened in a space since a seq, from its oplog, to the whole of it or to one sub-tree.

A reply never outgrows a frame: it is continued by asking again. What can no longer be told, or not to one who sees a
sub-tree only, is answered with RESYNC: whoever asked reads the namespace anew.
"""

from typing import Final

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.admission import check_space, no_space
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.filtering import Resync, filtered, inodes_in
from cloudverge_metaserver.packing import unpack_operation
from cloudverge_metaserver.rows import Connection
from cloudverge_metaserver.scope import Scope
from cloudverge_metaserver.subtree import inside
from cloudverge_protocol.errors import Code, ProtocolFault
from cloudverge_protocol.ids import ChunkId, EntryNumber, Incarnation, Seq, SessionId
from cloudverge_protocol.messages import Feed, FeedReply
from cloudverge_protocol.operations import ChunkDone, LogEntry

FEED_MAX: Final = 10_000
FEED_BYTES: Final = 4 * 1024 * 1024
SILENCE: Final = ChunkDone(ChunkId(0))  # touches nothing

_FEED_STATE: Final = "select seq, feed_from from meta.spaces where space = $1"
_FEED: Final = """
    select seq, session, incarnation, number, op from meta.oplog
    where space = $1 and seq > $2 order by seq limit $3
"""


class Feeding:
    """The handler."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def feed(self, identity: Identity, message: Feed) -> FeedReply:
        """The oplog after a seq; raises ProtocolFault(RESYNC) if it no longer reaches back that far.

        A confined session sees what touches its sub-tree, as it looks from inside.
        """
        check_space(identity, message.space)
        limit = max(1, min(message.limit, FEED_MAX))
        async with self._database.snapshot() as connection:
            state = await connection.fetchrow(_FEED_STATE, message.space)
            if state is None:
                raise no_space()
            if not state["feed_from"] - 1 <= message.since <= state["seq"]:
                raise resync(message.since)
            seq = Seq(state["seq"])
            entries = await _history(connection, message, FEED_MAX if identity.is_confined else limit)
            if identity.is_confined:
                return await _feed_within(connection, identity, message.since, seq, entries, limit)
        return FeedReply(seq, tuple(entries))


async def _history(connection: Connection, message: Feed, limit: int) -> list[LogEntry]:
    """The entries after a seq, as many as fit a reply."""
    entries: list[LogEntry] = []
    size = 0
    for seq, session, incarnation, number, op in await connection.fetch(
        _FEED, message.space, message.since, limit
    ):
        size += len(op) + 40
        if entries and size > FEED_BYTES:
            break
        entries.append(
            LogEntry(seq, SessionId(session), Incarnation(incarnation), number, unpack_operation(op))
        )
    return entries


async def _feed_within(
    connection: Connection, identity: Identity, since: Seq, seq: Seq, entries: list[LogEntry], limit: int
) -> FeedReply:
    """What of the first ``limit`` entries a confined session sees; a silent one stands for those left out at the end.

    All until now are looked at, whatever the limit: a page of the past, told by what is inside now, would tell of
    folders from before they were moved in. What is too long for that cannot be told.
    """
    if entries and entries[-1].seq < seq:
        raise resync(since)
    found = await inside(connection, identity.space, identity.root, inodes_in(entries))
    try:
        shown = filtered(entries, found, Scope(identity.root))
    except Resync:
        raise resync(since) from None
    page = entries[:limit]
    shown = [entry for entry in shown if entry.seq <= page[-1].seq]
    if page and (not shown or shown[-1].seq < page[-1].seq):
        shown.append(LogEntry(page[-1].seq, SessionId(0), Incarnation(0), EntryNumber(0), SILENCE))
    return FeedReply(seq, tuple(shown))


def resync(since: Seq) -> ProtocolFault:
    """The answer when the feed cannot tell all that has happened since."""
    return ProtocolFault(Code.RESYNC, f"the history after {since} cannot be told: read the namespace anew")
