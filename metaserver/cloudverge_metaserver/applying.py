"""Applying the entries of a batch to rows in memory: in order, each once, up to the first refusal. Pure.

What the rules of the protocol cannot know is checked here: that the entry's incarnation is an open one of this
session and its number not yet applied, that what it names lies below the session's root, that new ids come out of
the session's ranges, that a write names durable bytes of the session's own chunks, and that the quota holds. A
chunk of somebody else and one that never was are refused in the same words.

Invariants: a refused entry leaves no trace in the working set; entries after it are not looked at; every
applied entry has a seq of its own, one above that of the entry before. A batch that makes too much work ends before
its last entry, but never before its first: what it costs is bounded, whatever it holds.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from cloudverge_metaserver.batchset import PIECES_PER_REGION, BatchSet
from cloudverge_metaserver.durability import ChunkFacts, ChunkState
from cloudverge_metaserver.subtree import Confinement
from cloudverge_protocol import rules
from cloudverge_protocol.errors import (
    ChunkFault,
    CloudVergeError,
    Code,
    Denied,
    NoRoom,
    ProtocolFault,
    Refused,
    Unavailable,
)
from cloudverge_protocol.extents import bytes_in
from cloudverge_protocol.ids import (
    BATCH_ENTRIES_MAX,
    BATCH_EXTENTS_MAX,
    BATCH_RECEIPTS_MAX,
    ChunkId,
    EntryNumber,
    Incarnation,
    Seq,
    SessionId,
)
from cloudverge_protocol.inodes import Extents
from cloudverge_protocol.messages import Batch
from cloudverge_protocol.operations import (
    RENAME_EXCHANGE,
    ChunkDone,
    CloneRange,
    Create,
    Entry,
    Link,
    Operation,
    Rename,
    Write,
)

_log = structlog.get_logger()

WORK_MAX = 1_000_000  # of one batch, see BatchSet.work: about a quarter of a second
CLONED_WEIGHS = 4  # pieces that are made anew, against those that are only gone through


class IdRanges:
    """The ids given to a session: pairs (first, count), not overlapping."""

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        ordered = sorted(ranges)
        self._firsts = [first for first, _ in ordered]
        self._ends = [first + count for first, count in ordered]

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int):
            return False
        index = bisect_right(self._firsts, value) - 1
        return index >= 0 and value < self._ends[index]


@dataclass(frozen=True, slots=True)
class Standing:
    """Who sends the batch and what there is before it."""

    session: SessionId
    high_water: Mapping[Incarnation, EntryNumber]  # of the session's incarnations that are not closed
    ids: IdRanges
    seq: Seq
    used_bytes: int
    used_inodes: int
    quota_bytes: int = 0
    quota_inodes: int = 0


@dataclass(slots=True)
class Applied:
    """What came of the entries; all of it is to be written in the same transaction."""

    seq: Seq
    used_inodes: int
    seqs: list[int] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)  # those applied now; seqs count up to ``seq``
    high_water: dict[Incarnation, EntryNumber] = field(default_factory=dict)
    ends: dict[ChunkId, int] = field(default_factory=dict)  # highest end of a committed extent
    done: set[ChunkId] = field(default_factory=set)
    refused: Entry | None = None
    error: CloudVergeError | None = None
    forged: int = 0  # receipts that no server has given


def check_batch(batch: Batch) -> None:
    """Refuse a batch that is too long, or whose entries cannot be journal entries in their order."""
    entries = batch.entries
    extents = sum(len(entry.op.extents) for entry in entries if type(entry.op) is Write)
    for what, count, most in (
        ("entries", len(entries), BATCH_ENTRIES_MAX),
        ("extents", extents, BATCH_EXTENTS_MAX),
        ("receipts", len(batch.receipts), BATCH_RECEIPTS_MAX),
    ):
        if count > most:
            raise ProtocolFault(Code.BAD_REQUEST, f"a batch of {count} {what}, at most {most}")
    last: dict[int, int] = {}
    for entry in entries:
        if entry.number <= last.get(entry.incarnation, 0):
            raise ProtocolFault(
                Code.BAD_REQUEST, f"entry {entry.number} of incarnation {entry.incarnation} is out of order"
            )
        last[entry.incarnation] = entry.number


def fresh(entries: Sequence[Entry], high_water: Mapping[Incarnation, EntryNumber]) -> list[Operation]:
    """The operations that were not applied before: those whose rows are needed."""
    return [e.op for e in entries if e.number > high_water.get(e.incarnation, e.number)]


class Applier:
    """Runs the entries of one batch."""

    def __init__(
        self,
        ws: BatchSet,
        standing: Standing,
        chunks: Mapping[ChunkId, ChunkFacts],
        confinement: Confinement | None = None,
    ) -> None:
        self._ws, self._standing, self._chunks = ws, standing, chunks
        self._confinement = confinement
        self._bytes_bound = standing.used_bytes  # never below what is used
        self._bytes_exact: int | None = None  # counted only near the quota
        self.result = Applied(standing.seq, standing.used_inodes)

    def run(self, entries: Sequence[Entry]) -> Applied:
        """Apply what can be applied."""
        result = self.result
        high_water = dict(self._standing.high_water)
        most = self._ws.work + WORK_MAX
        for entry in entries:
            if self._ws.work > most and result.entries:
                break  # the rest comes again: others wait meanwhile
            known = high_water.get(entry.incarnation)
            if known is not None and entry.number <= known:
                result.seqs.append(0)
                continue
            self._ws.mark(Seq(result.seq + 1), entry.incarnation)
            try:
                if known is None:
                    raise Denied(Code.FENCED, f"incarnation {entry.incarnation} takes no more entries")
                self._apply(entry.op)
            except CloudVergeError as error:
                error.suspicious = error.is_suspicious or _is_impossible(entry.op)
                return self._refuse(entry, error)
            except Exception:
                # a rule that breaks on an entry would break on it for ever: set it aside instead
                _log.exception("an operation broke its rule", op=type(entry.op).__name__)
                return self._refuse(entry, Unavailable(Code.INTERNAL, "the server failed on this operation"))
            high_water[entry.incarnation] = result.high_water[entry.incarnation] = entry.number
            result.seq = Seq(result.seq + 1)
            result.seqs.append(result.seq)
            result.entries.append(entry)
        return result

    def _refuse(self, entry: Entry, error: CloudVergeError) -> Applied:
        self._ws.undo()
        self.result.refused, self.result.error = entry, error
        return self.result

    def _apply(self, op: Operation) -> None:
        """Check what is ours to check, run the rule, count what it cost."""
        if self._confinement is not None:
            self._confinement.check(op)
        if isinstance(op, Write):
            self._check_chunks(op.extents)
        else:
            self._check_ids(op)
        before = self._ws.work
        rules.apply(op, self._ws)
        if isinstance(op, CloneRange):
            self._ws.work += CLONED_WEIGHS * (self._ws.work - before)
        if self._ws.is_too_fragmented():
            raise Refused(Code.FILE_TOO_BIG, f"more than {PIECES_PER_REGION} pieces in 64 MiB of a file")
        used = self.result.used_inodes + self._ws.inodes_grown()
        if used > self.result.used_inodes and 0 < self._standing.quota_inodes < used:
            raise NoRoom(Code.QUOTA, f"the quota of {self._standing.quota_inodes} files is used up")
        if isinstance(op, Write):
            self._count_bytes(bytes_in(op.extents))
        elif isinstance(op, CloneRange):
            self._count_bytes(op.length)
        elif self._bytes_exact is not None:
            self._bytes_exact += self._ws.bytes_grown()
        self.result.used_inodes = used
        self._note(op)

    def _note(self, op: Operation) -> None:
        """What else the transaction has to write for ``op``; nothing after this may refuse it."""
        if self._confinement is not None:
            self._confinement.applied(op, self._ws.is_orphan)
        if isinstance(op, Write):
            ends = self.result.ends
            for extent in op.extents:
                end = extent.chunk_offset + extent.length
                if end > ends.get(extent.chunk, 0):
                    ends[extent.chunk] = end
        elif isinstance(op, ChunkDone):
            facts = self._chunks.get(op.chunk)
            if facts is not None and facts.session == self._standing.session:
                self.result.done.add(op.chunk)

    def _check_ids(self, op: Operation) -> None:
        if isinstance(op, Create):
            new: tuple[int, ...] = (op.ino, op.dentry) if op.name else (op.ino,)
        elif isinstance(op, Link):
            new = (op.dentry,)
        elif isinstance(op, Rename):
            new = (op.dentry, op.other) if op.flags & RENAME_EXCHANGE else (op.dentry,)
        else:
            return
        for value in new:
            if value not in self._standing.ids:
                error = Refused(Code.INVALID, f"the id {value} was not given to this session")
                error.suspicious = True
                raise error

    def _check_chunks(self, extents: Extents) -> None:
        """Only durable bytes of the session's own chunks."""
        for extent in extents:
            facts = self._chunks.get(extent.chunk)
            if facts is None or facts.session != self._standing.session or facts.state == ChunkState.DELETED:
                raise ChunkFault(Code.NOT_YOURS, "a chunk named here is none of this session's")
            end = extent.chunk_offset + extent.length
            if end > facts.durable:
                raise ChunkFault(
                    Code.NOT_DURABLE,
                    f"bytes up to {end} of chunk {extent.chunk}, but only {facts.durable} are on all its servers",
                )

    def _count_bytes(self, most: int) -> None:
        """Hold the quota of bytes; ``most`` is how much the operation can have added."""
        quota = self._standing.quota_bytes
        if not quota:
            return
        if self._bytes_exact is None:
            self._bytes_bound += most
            if self._bytes_bound <= quota:
                return
            self._bytes_exact = self._standing.used_bytes + self._grown_before()
        grown = self._ws.bytes_grown()
        if grown > 0 and self._bytes_exact + grown > quota:
            raise NoRoom(Code.QUOTA, f"the quota of {quota} bytes is used up")
        self._bytes_exact += grown

    def _grown_before(self) -> int:
        """Exactly what the entries before this one have added."""
        total = sum(
            bytes_in(self._ws.extents(ino, region)) - bytes_in(self._ws.before.get((ino, region), ()))
            for ino, region in self._ws.changed_regions
        )
        return total - self._ws.bytes_grown()


def _is_impossible(op: Operation) -> bool:
    """Whether ``op`` is wrong by itself; a mount runs the same check before it takes such a thing into its journal."""
    try:
        rules.check(op)
    except Refused:
        return True
    return False


@dataclass(slots=True)
class Usage:
    """How the bytes mapped by extents changed."""

    used_bytes: int
    live: dict[ChunkId, int]  # per chunk, by how much


def usage_of(ws: BatchSet) -> Usage:
    """The difference between the regions loaded and those there now."""
    live: dict[ChunkId, int] = {}
    for key in ws.changed_regions:
        old, new = ws.before.get(key, ()), ws.extents(*key)
        if old is new:
            continue
        for extent in new:
            live[extent.chunk] = live.get(extent.chunk, 0) + extent.length
        for extent in old:
            live[extent.chunk] = live.get(extent.chunk, 0) - extent.length
    return Usage(sum(live.values()), {chunk: change for chunk, change in live.items() if change})
