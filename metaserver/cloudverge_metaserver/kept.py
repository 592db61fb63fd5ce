"""What is kept in memory of a space between two batches, so that a batch that needs nothing else is one round trip.

A mount that fsyncs sends one small batch after another, about the same few rows. After a batch this process
knows them: the rows, the chunks, who holds the lease. ``spaces.revision`` tells whether that is still so: whoever
locks the space's row raises it, in whatever metaserver. So a batch may be applied to what is kept and written back
by one statement that first raises the number from exactly the one remembered, and else changes nothing.

Invariants: what is kept is a copy of committed rows at ``revision``, or it is thrown away; one task at a time has
it in hands (``take``); it is small, and there are few of them: memory only, a restart forgets all.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.admission import Admitted, terms_of
from cloudverge_metaserver.applying import Applied, IdRanges
from cloudverge_metaserver.batchset import BatchSet
from cloudverge_metaserver.durability import ChunkFacts
from cloudverge_protocol.extents import bytes_in
from cloudverge_protocol.ids import ChunkId, SpaceId
from cloudverge_protocol.messages import Batch
from cloudverge_protocol.operations import CloneRange, Create, Write

SPACES_MAX: Final = 64
ROWS_MAX: Final = 1_000  # of one space; keys known to be absent count too
BYTES_MAX: Final = 1 << 20  # of one space, about
CHUNKS_MAX: Final = 64
FEW: Final = 4  # entries that cannot add much
WEIGH_EVERY: Final = 32  # batches of so few
SHARED_FOR_S: Final = 1.0  # how long a quota that other spaces share may be remembered
SHARED_BYTES: Final = 256 * 1024  # and how much may be added meanwhile
SHARED_INODES: Final = 16


@dataclass(slots=True)
class Kept:
    """One space as its last batch left it."""

    who: Admitted
    ws: BatchSet = field(default_factory=BatchSet)
    chunks: dict[ChunkId, ChunkFacts] = field(default_factory=dict)
    ids: IdRanges | None = None  # of the session; None: not loaded
    looked_at_s: float = field(default_factory=time.monotonic)  # when ``who`` was asked of the database
    spent_bytes: int = 0  # since then, at most
    spent_inodes: int = 0
    unweighed: int = 0  # batches since its bytes were counted
    weighed_rows: int = -1

    def is_for(self, identity: Identity, batch: Batch) -> bool:
        """Whether this session was admitted under the same right; a newer membership or quota is looked up."""
        who = self.who
        return (
            self._may_spend(batch)
            and who.terms == terms_of(identity)
            and who.user == identity.user
            and who.session == batch.session
            and who.incarnation == batch.incarnation
            and who.lease_epoch == batch.lease_epoch
            and who.membership_epoch == identity.membership_epoch
        )

    def _may_spend(self, batch: Batch) -> bool:
        """Whether what is known of a shared quota is enough for what ``batch`` could add; counts it as added."""
        if not self.who.shares_quota:
            return True
        for entry in batch.entries:
            op = entry.op
            if isinstance(op, Create):
                self.spent_inodes += 1
            elif isinstance(op, Write):
                self.spent_bytes += max(0, bytes_in(op.extents))
            elif isinstance(op, CloneRange):
                self.spent_bytes += max(0, op.length)
        return (
            time.monotonic() < self.looked_at_s + SHARED_FOR_S
            and self.spent_bytes <= SHARED_BYTES
            and self.spent_inodes <= SHARED_INODES
        )

    def settle(self, applied: Applied, grown_bytes: int, revision: int) -> None:
        """All that was applied is committed, and the space is at ``revision`` now."""
        self.ws.settle()
        for chunk, end in applied.ends.items():
            facts = self.chunks[chunk]
            facts.committed_end = max(facts.committed_end, end)
        for chunk in applied.done:
            del self.chunks[chunk]
        self.unweighed += WEIGH_EVERY if len(applied.entries) > FEW else 1
        self.who = self.who.after(applied, self.who.used_bytes + grown_bytes, revision)

    def is_small(self) -> bool:
        """Whether it is worth its memory; its bytes are counted when they may have become many more."""
        rows = self.ws.rows
        if rows > ROWS_MAX or len(self.chunks) > CHUNKS_MAX:
            return False
        if rows == self.weighed_rows and self.unweighed < WEIGH_EVERY:
            return True
        self.weighed_rows, self.unweighed = rows, 0
        return self.ws.size_bytes() <= BYTES_MAX


class KeptSpaces:
    """The spaces that had a batch last."""

    def __init__(self) -> None:
        self._spaces: OrderedDict[SpaceId, Kept] = OrderedDict()

    def take(self, space: SpaceId) -> Kept | None:
        """What is kept; the caller puts it back if it is still true."""
        return self._spaces.pop(space, None)

    def put(self, space: SpaceId, kept: Kept) -> None:
        """Keep it for the next batch."""
        if not kept.is_small():
            return
        self._spaces[space] = kept
        if len(self._spaces) > SPACES_MAX:
            self._spaces.popitem(last=False)
