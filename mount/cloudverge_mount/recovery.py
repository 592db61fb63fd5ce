"""The start: from what the cache folder holds to a names side that can serve.

1. The journal is read: what is uncommitted, held, spilled (``replay``).
2. The replica is taken if it fits the space's history and the journal, else a new one is begun: it is a cache,
   the journal stands alone.
3. The oplog since the replica's seq is read. Our own entries are in the journal or in the replica; rows that
   others changed are forgotten. Too much of it, RESYNC, or entries of ours that we do not know: a new replica.
4. Rows are rebuilt (``rebase``) and the dirty map verified; what lost its bytes is set aside.

Unshipped entries keep their old numbers; what the metaserver's high water covers is committed.
"""

import sqlite3
from pathlib import Path
from typing import Final, Protocol

import structlog

from cloudverge_mount.journal import Journal
from cloudverge_mount.ledger import Bytes, Ledger
from cloudverge_mount.replay import Replay, Restorable, Verdicts
from cloudverge_mount.replica import Replica
from cloudverge_mount.rights import Rights
from cloudverge_mount.rowkeys import Touched, nothing_touched
from cloudverge_protocol.codec import encode
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.ids import InodeId, Seq
from cloudverge_protocol.messages import Feed, FeedReply

FOREIGN_MAX: Final = 20_000  # operations of others; beyond that a new replica is cheaper

_log = structlog.get_logger()


class FeedSource(Protocol):
    """What of the metaserver's client is used here."""

    async def feed(self, request: Feed) -> FeedReply: ...


class RestorableBytes(Bytes, Restorable, Protocol):
    """The bytes side, as the start needs it."""

    def finish_restore(self) -> dict[InodeId, str]: ...


def open_replica(path: Path) -> Replica:
    """The replica in ``path``; a damaged one is begun anew."""
    try:
        replica = Replica(path, encode)
        if replica.state("format") == 1:
            return replica
        replica.close()
    except sqlite3.DatabaseError as error:
        _log.warning("the replica is damaged and will be rebuilt", path=str(path), error=str(error))
    return new_replica(path)


def new_replica(path: Path) -> Replica:
    """An empty replica in ``path``, whatever was there."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return Replica(path, encode)


def belongs(replica: Replica, rights: Rights, journal: Journal) -> bool:
    """Whether a replica is of this space and history, and the journal reaches as far as it does."""
    same = (replica.state("cluster"), replica.state("history"), replica.state("space")) == (
        rights.cluster,
        rights.history,
        rights.space,
    )
    position = replica.state("position")
    if not same or position is None or journal.damaged:
        return False
    return int(position) <= journal.end and (int(position) >> 32) + 1 >= journal.first_segment


class CatchUp:
    """Reading the oplog from ``seq`` on."""

    def __init__(self, rights: Rights, source: FeedSource) -> None:
        self._rights = rights
        self._source = source

    async def foreign(self, since: int, known: dict[int, int] | None) -> tuple[Touched, int] | None:
        """The rows that others touched since, and the seq reached. None: begin a new replica.

        ``known``: of each incarnation of ours, the highest entry number that is in journal or replica; None
        for a mount that is running, which knows all of them.
        """
        touched, count = nothing_touched(), 0
        while True:
            try:
                reply = await self._source.feed(Feed(self._rights.space, Seq(since)))
            except CloudVergeError as error:
                if error.code == Code.RESYNC:
                    return None
                raise
            for entry in reply.entries:
                if entry.session != self._rights.session:
                    touched.add(entry.op)
                    count += 1
                elif known is not None and entry.number > known.get(entry.incarnation, 0):
                    return None
                since = entry.seq
            if not reply.entries or since >= reply.seq:
                return touched, max(since, reply.seq)
            if count > FOREIGN_MAX:
                return None


def replay_into(ledger: Ledger, content: RestorableBytes, verdicts: Verdicts, position: int) -> Replay:
    """The second pass over the journal."""
    replay = Replay(ledger, content, verdicts, position)
    for found in ledger.journal.replay():
        replay.take(found)
    return replay


def forget_clean(ledger: Ledger) -> None:
    """After the replay: coming attributes matter only while something closed of a file has not entered.

    It need not be dirty: a kill may come between a cut and the Write that says what it left.
    """
    for ino in list(ledger.pendings):
        if not ledger.content.is_dirty(InodeId(ino)) and not ledger.spills.has_fresh(ino):
            del ledger.pendings[ino]
