"""The shipper: sends the outbox to the metaserver, in order, one batch at a time, for as long as it takes.

- After the first entry it waits ``GATHER_S`` for more, unless somebody wants a barrier; while a batch is away
  the next one gathers by itself.
- Unavailable, or a lease that is gone for the moment: the same batch again, later. Entries have numbers, so
  what had been applied is skipped.
- A refused entry is never sent again: ``set_aside`` takes it and all that meets it out, the rest goes on.
- ``barrier`` waits until everything queued so far is settled: committed, or set aside.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol, cast

import msgspec
import structlog
import trio

from cloudverge_mount.ledger import Ledger
from cloudverge_mount.outbox import Item, entry_of
from cloudverge_mount.records import ACKED, AckedRecord, encode
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, Unavailable, make_error
from cloudverge_protocol.ids import EntryNumber, Epoch, Incarnation, SessionId
from cloudverge_protocol.messages import Batch, BatchReply, Empty, IncarnationClose, Message, Receipt
from cloudverge_protocol.operations import Reap

GATHER_S: Final = 0.1
BATCH_ENTRIES: Final = 2000
BATCH_BYTES: Final = 1024 * 1024
RETRY_FIRST_S: Final = 0.1
RETRY_MAX_S: Final = 2.0
PATIENCE_S: Final = 25.0  # a barrier without progress for so long gives up
HICCUPS_MAX: Final = 5  # a "try again" for one entry, before it counts as refused


class RawBatch(Message, frozen=True):
    """A ``Batch`` whose entries are encoded already; the same bytes on the wire."""

    session: SessionId
    incarnation: Incarnation
    lease_epoch: Epoch
    receipts: tuple[Receipt, ...]
    entries: tuple[msgspec.Raw, ...]


class BatchTarget(Protocol):
    """What of the metaserver's client is used here."""

    async def batch(self, request: Batch) -> BatchReply: ...
    async def close_incarnation(self, request: IncarnationClose) -> Empty: ...


SetAside = Callable[[Item, CloudVergeError], Awaitable[None]]

_log = structlog.get_logger()


class Shipper:
    """``on_seq(seqs, seq)``: a batch was committed with these seqs, the space is at ``seq`` now."""

    def __init__(
        self,
        ledger: Ledger,
        meta: BatchTarget,
        set_aside: SetAside,
        on_seq: Callable[[Sequence[int], int], None],
    ) -> None:
        self._ledger = ledger
        self._outbox = ledger.outbox
        self._meta = meta
        self._set_aside = set_aside
        self._on_seq = on_seq
        self._work = trio.Event()
        self._urgent = trio.Event()
        self._moved = trio.Event()
        self._hiccups = 0
        self._outbox.on_push = self._pushed
        self._busy = trio.Lock()
        self._close_after: int | None = None
        self.old: set[int] = set()  # incarnations to be closed once their entries are shipped
        self.old_orphans: set[int] = set()  # and these, unlinked under them, are not open any more
        self.trouble = ""

    def _pushed(self) -> None:
        self._outbox.on_push = _ignore  # once awake, no more of this until it sleeps again
        self._work.set()

    async def run(self) -> None:
        """Ship until cancelled."""
        retry_s = RETRY_FIRST_S
        while True:
            await self._wait_for_work()
            try:
                await self.ship_once()
                retry_s, self.trouble = RETRY_FIRST_S, ""
            except (Unavailable, Denied) as error:
                if not self.trouble:
                    _log.warning("changes cannot be shipped for now", reason=error.message)
                self.trouble = f"changes wait to be shipped: {error.message}"
                await trio.sleep(retry_s)
                retry_s = min(RETRY_MAX_S, retry_s * 2)

    async def _wait_for_work(self) -> None:
        if not len(self._outbox):
            self._work = trio.Event()
            self._outbox.on_push = self._pushed
            await self._work.wait()
        if not self._urgent.is_set() and len(self._outbox) < BATCH_ENTRIES:
            with trio.move_on_after(GATHER_S):
                await self._urgent.wait()
        self._urgent = trio.Event()

    async def ship_once(self) -> None:
        """Send one batch and take note of what came of it."""
        try:
            self._busy.acquire_nowait()  # usually free; waiting in line costs a turn of the loop
        except trio.WouldBlock:
            await self._busy.acquire()
        try:
            items = self._outbox.first(BATCH_ENTRIES, BATCH_BYTES)
            if items:
                reply = await self._send(items)
                with trio.CancelScope(shield=True):  # a refusal taken in by half would leave wrong rows
                    await self._note(items, reply)
            await self._close_old()
        finally:
            self._busy.release()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Nothing is shipped meanwhile."""
        async with self._busy:
            yield

    def wake(self) -> None:
        """There is something to do other than entries."""
        self._work.set()

    async def _send(self, items: Sequence[Item]) -> BatchReply:
        rights = self._ledger.rights
        batch = RawBatch(
            rights.session,
            rights.incarnation,
            rights.lease_epoch,
            _receipts_of(items),
            tuple(msgspec.Raw(item.raw) for item in items),
        )
        try:
            return await self._meta.batch(cast("Batch", batch))
        except (Unavailable, Denied):
            raise
        except CloudVergeError as error:  # the batch as such: find the entry that is to blame
            if len(items) > 1:
                return await self._send(items[: len(items) // 2])
            _log.error("an entry makes the metaserver refuse its batch", reason=error.message)
            return BatchReply((), rights.seq, Incarnation(items[0].incarnation),
                              EntryNumber(items[0].number), error.code, error.message)  # fmt: skip

    async def _note(self, items: Sequence[Item], reply: BatchReply) -> None:
        count = len(reply.seqs)
        if count:
            self._hiccups = 0
            done = self._outbox.done(count)
            self.record_acked(Incarnation(done[-1].incarnation), EntryNumber(done[-1].number))
            self._ledger.committed(done)
            if reply.used_bytes or reply.used_inodes:
                self._ledger.rights.note_use(reply.used_bytes, reply.used_inodes, reply.seq)
            self._on_seq(reply.seqs, reply.seq)
            self._wake()
        if reply.refused_number:
            await self._refused(items[count], make_error(reply.refused_code, reply.refused_message))

    def record_acked(self, incarnation: Incarnation, number: EntryNumber) -> None:
        """Journal that the metaserver has this entry and all before it."""
        try:
            self._ledger.journal.append(ACKED, encode(AckedRecord(incarnation, number)))
        except CloudVergeError as error:  # the metaserver remembers too
            _log.warning("the journal cannot take an acknowledgement", reason=error.message)

    async def _refused(self, item: Item, error: CloudVergeError) -> None:
        if isinstance(error, Unavailable) and self._hiccups < HICCUPS_MAX:
            self._hiccups += 1
            raise error
        if isinstance(error, Denied) and error.code in (Code.FENCED, Code.UNAUTHORIZED):
            raise error
        self._hiccups = 0
        if type(entry_of(item).op) is Reap:  # gone already: its incarnation was closed for us
            self._ledger.committed(self._outbox.done(1))
        else:
            await self._set_aside(item, error)
        self._wake()

    def retire(self, old: Iterable[int], orphans: Iterable[int]) -> None:
        """These incarnations make no entries any more; these inodes were unlinked under them and are open."""
        self.old.update(old)
        self.old_orphans = set(orphans)
        self._close_after = None  # those that end now have made more

    async def _close_old(self) -> None:
        if not self.old or self._ledger.needs_old():
            return
        if not self.old_orphans.isdisjoint(self._ledger.rows.orphans):
            return
        if self._close_after is None:
            self._close_after = self._outbox.pushed  # reaps of those orphans among them
        if self._outbox.settled < self._close_after:
            return
        rights = self._ledger.rights
        for old in sorted(self.old):
            request = IncarnationClose(
                rights.session, rights.incarnation, rights.lease_epoch, Incarnation(old)
            )
            try:
                await self._meta.close_incarnation(request)
            except (Unavailable, Denied):
                raise
            except CloudVergeError as error:
                _log.warning("an old incarnation cannot be closed", incarnation=old, reason=error.message)
            self.old.discard(old)
        self._close_after = None

    # --- barriers ----------------------------------------------------------------------------------------

    def hurry(self) -> None:
        """Do not gather, ship now."""
        self._urgent.set()

    async def barrier(self) -> None:
        """Until all that is queued now is settled.

        The caller ships it himself if nothing is under way: two turns of the loop less. If that fails, ``run``
        tries again, and he waits like all others: for ``PATIENCE_S`` without progress, then raises Unavailable.
        """
        target = self._outbox.pushed
        try:
            while self._outbox.settled < target and not self._busy.locked() and not self.trouble:
                before = self._outbox.settled
                await self.ship_once()
                if self._outbox.settled == before:
                    break
        except (Unavailable, Denied) as error:
            _log.info("a barrier's batch was not shipped", reason=error.message)
        while self._outbox.settled < target:
            self._urgent.set()
            before, moved = self._outbox.settled, self._moved
            with trio.move_on_after(PATIENCE_S):
                await moved.wait()
            if self._outbox.settled == before and not moved.is_set():
                raise Unavailable(
                    Code.TIMEOUT, self.trouble or f"nothing was committed for {PATIENCE_S:.0f} seconds"
                )

    def _wake(self) -> None:
        self._moved.set()
        self._moved = trio.Event()


def _receipts_of(items: Sequence[Item]) -> tuple[Receipt, ...]:
    """The receipts that these entries need: of each chunk and server the longest."""
    longest: dict[tuple[int, int, int], Receipt] = {}
    last: object = None
    for item in items:
        if not item.receipts or item.receipts is last:
            continue
        last = item.receipts
        for receipt in item.receipts:
            key = (receipt.server, receipt.chunk, receipt.epoch)
            known = longest.get(key)
            if known is None or receipt.length > known.length:
                longest[key] = receipt
    return tuple(longest.values())


def _ignore() -> None:
    """Awake already."""
