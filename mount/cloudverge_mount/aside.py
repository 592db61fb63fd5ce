"""Setting aside: what cannot be committed leaves the order, with all that meets it, and is kept for people to read.

A refused entry makes every later entry and held operation that has a row in common with it (or with one that
has) meaningless: they are taken out together, written to the recovery folder as lines of JSON, and noted in
the journal so that no start brings them back. The rows they touched are forgotten and loaded from the server.
The rest never stops: nothing else has a row in common with these.

Files among them give EIO once to fsync, and lose what was dirty in them if they do not exist any more.
"""

import base64
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from cloudverge_mount.gate import Gate
from cloudverge_mount.holding import Held
from cloudverge_mount.ledger import Ledger
from cloudverge_mount.outbox import Item, entry_of
from cloudverge_mount.rebase import Rebase, describe
from cloudverge_mount.records import ASIDE, AsideRecord, encode
from cloudverge_mount.rowkeys import Touched, inodes_met, nothing_touched
from cloudverge_protocol.errors import CloudVergeError, Code, Unavailable
from cloudverge_protocol.ids import EntryNumber, Incarnation, InodeId
from cloudverge_protocol.operations import Entry, Operation

REASONS_MAX: Final = 20  # shown in the status
FAILED_MAX: Final = 10_000

_log = structlog.get_logger()


class Aside:
    """``invalidate(inodes, names)``: the kernel must forget these."""

    def __init__(self, ledger: Ledger, rebase: Rebase, gate: Gate, folder: Path) -> None:
        self._ledger = ledger
        self._rebase = rebase
        self._gate = gate
        self._folder = folder
        self._failed: dict[int, CloudVergeError] = {}
        self.reasons: list[str] = self._told_before()
        self.invalidate: Callable[[list[int], list[tuple[int, bytes]]], None] | None = None

    def _told_before(self) -> list[str]:
        files = sorted(self._folder.glob("*.jsonl")) if self._folder.exists() else []
        return [f"changes were set aside, see {path}" for path in files[-REASONS_MAX:]]

    def take_failure(self, ino: int) -> CloudVergeError | None:
        """What went wrong with this inode since it was last asked."""
        return self._failed.pop(ino, None)

    def fail(self, inodes: Iterable[int], error: CloudVergeError) -> None:
        """The next fsync of each of these tells."""
        for ino in inodes:
            if len(self._failed) < FAILED_MAX:
                self._failed[ino] = error

    async def entry(self, item: Item, error: CloudVergeError) -> None:
        """The metaserver has refused this entry, the first of the outbox."""
        async with self._gate.shut():
            ledger = self._ledger
            first = entry_of(item)
            met = set(inodes_met(first.op))
            entries = self._later_entries(item, met)
            held = ledger.holding.after(met)
            await self._take_out(entries, held, error)

    async def held(self, refused: Iterable[Held], error: CloudVergeError) -> None:
        """These held operations can never enter: neither can those after them that meet them."""
        met, hopeless = set[int](), list(refused)
        first = min((held.hold for held in hopeless), default=0)
        for held in hopeless:
            met.update(held.met)
        later = [held for held in self._ledger.holding.after(met) if held.hold >= first]
        if later:
            await self._take_out([], later, error)

    def _later_entries(self, item: Item, met: set[int]) -> list[tuple[Item, Entry]]:
        """The refused entry and those after it that meet it; ``met`` grows by what they meet."""
        chosen: list[tuple[Item, Entry]] = []
        for other in self._ledger.outbox:
            entry = entry_of(other)
            rows = inodes_met(entry.op)
            if (other.incarnation, other.number) == (item.incarnation, item.number) or not met.isdisjoint(
                rows
            ):
                met.update(rows)
                chosen.append((other, entry))
        return chosen

    async def _take_out(
        self, entries: list[tuple[Item, Entry]], held: list[Held], error: CloudVergeError
    ) -> None:
        numbers = tuple((entry.incarnation, entry.number) for _, entry in entries)
        path = self._tell(entries, held, error)
        self._ledger.journal.append(ASIDE, encode(AsideRecord(numbers, tuple(h.hold for h in held))))
        self._remove(entries, held)
        ops: list[Operation] = [entry.op for _, entry in entries] + [waiting.op for waiting in held]
        touched = nothing_touched()
        for op in ops:
            touched.add(op)
        reason = f"{len(ops)} changes were refused and set aside: {describe(ops[0], error)} (see {path})"
        _log.error("changes were set aside", count=len(ops), first=describe(ops[0], error), folder=str(path))
        self.reasons = [*self.reasons, reason][-REASONS_MAX:]
        self.fail(touched.inodes, Unavailable(Code.INTERNAL, reason))
        misfits = await self._rebase.rebase(touched)
        await self._drop_ended(touched)
        if self.invalidate is not None:
            self.invalidate(list(touched.inodes), list(touched.names))
        if misfits:
            await self.held(misfits, error)

    def _remove(self, entries: list[tuple[Item, Entry]], held: list[Held]) -> None:
        ledger = self._ledger
        gone = ledger.outbox.remove({(int(entry.incarnation), int(entry.number)) for _, entry in entries})
        ledger.committed(gone)
        ledger.give_up(held)

    async def _drop_ended(self, touched: Touched) -> None:
        """Dirty files that do not exist on the server have nowhere to go."""
        ledger = self._ledger
        for ino in list(ledger.pendings):
            if ino in touched.inodes and not await self._rebase.load_whole(ino):
                ledger.forget_content(InodeId(ino))

    def _tell(self, entries: list[tuple[Item, Entry]], held: list[Held], error: CloudVergeError) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{len(self.reasons):04d}.jsonl"
        try:
            write_changes(path, [entry for _, entry in entries], held, error)
        except OSError as failure:
            _log.error("the recovery folder cannot be written", path=str(path), error=str(failure))
        return path


def write_changes(path: Path, entries: list[Entry], held: list[Held], error: CloudVergeError) -> None:
    """Operations as lines of JSON, after one that says why they stand here; raises OSError."""
    head: dict[str, Any] = {"code": error.code.name, "message": error.message, "time": time.time()}
    lines = [{"refused": head}]
    lines += [_line(entry.op, entry.incarnation, entry.number) for entry in entries]
    lines += [_line(waiting.op, Incarnation(0), EntryNumber(0)) for waiting in held]
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line, default=_readable) + "\n" for line in lines)


def _line(op: Operation, incarnation: Incarnation, number: EntryNumber) -> dict[str, Any]:
    fields = {name: getattr(op, name) for name in op.__struct_fields__}
    return {"operation": type(op).__name__, "entry": [incarnation, number], **fields}


def _readable(value: object) -> object:
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    return str(value)
