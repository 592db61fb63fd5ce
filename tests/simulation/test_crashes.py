"""The names side under crashes: random programs, with a kill of the mount or a failing server at any step.

Everything real but the wires and the bytes: journal, order, replica, recovery, shipping, the whole ``Vfs``. The
model is the list of operations that the journal took, applied by the rules to a ``MemorySet``. A kill may also
cut the journal at any record of the last step. Checked throughout:

- what was answered is there after a kill, closed bytes too; the local view is what the model says;
- the metaserver commits each operation once, and operations with a row in common in the order they were made
  (I1); a rename or link is committed only when the file has the bytes it had then (I9);
- in the end, when all is shipped, server and local view are the same.
"""

import os
import stat
import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import event, given, settings
from hypothesis import strategies as st

from cloudverge_mount import filerows, journal, outbox, rows
from cloudverge_mount.filesystem import Caller, SetattrRequest
from cloudverge_mount.records import ENTRY, HELD, WRITE, HeldRecord, WriteRecord
from cloudverge_mount.rowkeys import inodes_met
from cloudverge_mount.vfs import OwnerPolicy, open_vfs
from cloudverge_protocol.codec import decode
from cloudverge_protocol.errors import CloudVergeError
from cloudverge_protocol.memoryset import MemorySet
from cloudverge_protocol.operations import ChunkDone, Entry, Link, Rename, Write
from cloudverge_protocol.rules import apply
from tests.fixtures.fakespace import FakeBytes, FakeDisk, FakeMeta, FakeServer, contents_of

ROOT = Caller(0, 0, 1, 0o22)
USER = Caller(1000, 1000, 1, 0o22)
NAMES = (b"a", b"b", b"c", b"d")
FOLDERS = (b"x", b"y")


class World:
    """One mount after the other on one cache folder, one server, and what should be true."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = FakeServer()
        self.server.on_commit = self.committing
        self.disk = FakeDisk()
        self.now_ns = 1000
        self.stamp = 0
        self.accepted: list[tuple[int, object]] = []  # journal position, operation
        self.order: list[object] = []  # operations as committed
        self.had: dict[int, bytes] = {}  # dentry id of a rename or link -> the bytes the file had then
        self.floor: dict[int, bytes] = {}  # bytes that a kill must not take
        self.since: dict[int, list[bytes]] = {}  # later contents, each of which a kill may leave parts of
        self.handles: dict[int, int] = {}  # inode -> fh
        self.vfs = None

    def clock(self) -> int:
        self.now_ns += 1
        return self.now_ns

    # --- starting and dying ---

    async def start(self, faults: list[str | None]) -> None:
        while True:
            rights = self.server.open()
            self.meta = FakeMeta(self.server)
            self.meta.faults = faults
            try:
                self.vfs = await open_vfs(
                    self.folder,
                    rights,
                    self.meta,
                    lambda sink: FakeBytes(sink, self.disk),
                    OwnerPolicy(True, 0, 0),
                    clock_ns=self.clock,
                )
            except CloudVergeError:
                faults = []
                continue
            break
        self.rights = rights
        self.meta.faults = []
        core = self.vfs.core
        core.writer.in_thread = False
        self.bytes = core.content
        self.journal = core.ledger.journal
        append = self.journal.append

        def watched(kind: int, payload: bytes) -> int:
            segment = append(kind, payload)
            self.note(kind, payload)
            return segment

        self.journal.append = watched
        # what recovery itself journaled (releases, restated attributes) before we could watch
        self.note_recovered()

    def note_recovered(self) -> None:
        known = {position for position, _ in self.accepted}
        for found in self.journal.scan(0):
            if found.end not in known and found.end > self.seen_end:
                self.note(found.kind, bytes(found.payload), found.end)
        self.seen_end = self.journal.end

    seen_end = 0

    def note(self, kind: int, payload: bytes, position: int | None = None) -> None:
        position = self.journal.end if position is None else position
        op = None
        if kind == ENTRY:
            op = decode(Entry, payload).op
        elif kind == WRITE:
            op = decode(Entry, bytes(decode(WriteRecord, payload).entry)).op
        elif kind == HELD:
            op = decode(HeldRecord, payload).op
        if op is not None:
            self.accepted.append((position, op))
        self.seen_end = position

    async def kill(self, cut: int, wipe: bool, faults: list[str | None], step_began: int) -> None:
        journal = self.journal
        ends = [position for position in self.record_ends() if position > step_began]
        journal.close()
        self.vfs.core.rows.replica.close()
        if ends and cut:
            self.undo_floors()
            keep = ([step_began, *ends])[max(0, len(ends) - cut)]
            self.cut_journal(keep, torn=cut % 2 == 0)
            self.accepted = [(position, op) for position, op in self.accepted if position <= keep]
            self.seen_end = keep
        if wipe:
            for path in self.folder.glob("replica*"):
                path.unlink()
        self.handles.clear()
        await self.start(faults)
        await self.check_after_kill()

    def remember_floors(self) -> None:
        """Before a step that may be cut off."""
        self.before = dict(self.floor), {ino: list(held) for ino, held in self.since.items()}

    before: tuple[dict[int, bytes], dict[int, list[bytes]]] = ({}, {})

    def undo_floors(self) -> None:
        """The last step was cut: what it made safe is only possible."""
        floor, since = self.before
        for ino, held in self.since.items():
            since[ino] = since.get(ino, [b""]) + held
        self.floor, self.since = floor, since

    def record_ends(self) -> list[int]:
        return [found.end for found in self.journal.scan(0)]

    def cut_journal(self, keep: int, torn: bool) -> None:
        for path in sorted((self.folder / "journal").glob("*.log")):
            segment = int(path.stem)
            if segment > keep >> 32:
                path.unlink()
            elif segment == keep >> 32:
                data = path.read_bytes()
                size = keep & 0xFFFFFFFF
                path.write_bytes(data[:size] + (data[size : size + 5] if torn else b""))

    # --- the model ---

    def model(self) -> MemorySet:
        rows = MemorySet.with_root(now_ns=1)
        for _, op in self.accepted:
            apply(op, rows)
        return rows

    def committing(self, entry) -> None:
        op = entry.op
        assert op not in self.order or isinstance(op, Write), f"committed twice: {op}"
        self.order.append(op)
        had = self.had.get(op.dentry) if isinstance(op, Rename | Link) else None
        if had is not None:
            now = contents_of(self.server, self.disk, op.ino)
            assert len(now) >= len(had), f"{op}: {now!r} is less than {had!r}"
            for before, after in zip(had, now, strict=False):
                assert after >= before, f"{op}: {now!r} misses bytes of {had!r}"

    def check_order(self) -> None:
        """I1, for all but Writes, whose place the design leaves to the moment their bytes are durable."""
        place = {op: index for index, op in enumerate(self.order)}
        last: dict[int, tuple[int, object]] = {}
        for _, op in self.accepted:
            if isinstance(op, Write | ChunkDone):
                continue
            at = place.get(op, 1 << 60)
            for ino in inodes_met(op):
                before = last.get(ino, (-1, None))
                assert before[0] <= at, f"{op} came before {before[1]}"
                last[ino] = at, op

    async def content(self, ino: int) -> bytes:
        size = (await self.vfs.getattr(ino)).size
        return await self.bytes.read(ino, 0, size)

    async def changed(self, ino: int, is_safe: bool) -> None:
        """The file's content has been changed; ``is_safe``: a kill must not undo it."""
        now = await self.content(ino)
        if is_safe:
            self.floor[ino], self.since[ino] = now, [now]
        else:
            self.since.setdefault(ino, [b""]).append(now)

    async def check_after_kill(self) -> None:
        await self.check_view()
        for ino in {entry.ino for entry in self.model().dentries.values()}:
            if not stat.S_ISREG((await self.vfs.getattr(ino)).mode):
                continue
            now, history = await self.content(ino), self.since.get(ino, [b""])
            sizes = {len(held) for held in history}  # what was not closed may be there in part
            assert min(sizes) <= len(now) <= max(sizes), f"{ino}: size {len(now)}, had {history}"
            for index, byte in enumerate(now):
                possible = {held[index] for held in history if index < len(held)} | (
                    {0} if len({len(held) for held in history}) > 1 else set()
                )
                assert byte in possible, f"{ino}: {now!r} at {index}, had {history}"
            self.floor[ino], self.since[ino] = now, [now]

    async def check_view(self) -> None:
        model = self.model()
        seen = await self.walk(1, model)
        named = {entry.ino for entry in model.dentries.values()} | {1}
        assert seen == named
        self.check_order()
        assert len(self.server.applied) == len(set(self.server.applied))

    async def walk(self, ino: int, model: MemorySet) -> set[int]:
        seen = {ino}
        fh = await self.vfs.opendir(ino)
        listed = []
        after = 0
        while part := await self.vfs.readdir(fh, after, 3):
            listed += part
            after = part[-1][2]
        await self.vfs.releasedir(fh)
        expected = [(entry.name, entry.ino, entry.dentry) for entry in model.listing(ino)]
        assert [(name, row.ino, cookie) for name, row, cookie in listed[2:]] == expected
        assert [name for name, _, _ in listed[:2]] == [b".", b".."]
        for name, row, _ in listed[2:]:
            assert await self.vfs.lookup(ino, name) == row
            want = model.inode(row.ino)
            self.same(row, want)
            if row.is_dir:
                seen |= await self.walk(row.ino, model)
            else:
                seen.add(row.ino)
            assert dict(model.xattrs(row.ino)) == {
                key: await self.vfs.getxattr(row.ino, key) for key in await self.vfs.listxattr(row.ino)
            }
        return seen

    def same(self, row, want) -> None:
        stable = ("ino", "uid", "gid", "nlink", "rdev", "parent", "entries", "target", "btime_ns")
        if row.ino not in self.vfs.core.pendings:
            stable += ("size", "mtime_ns", "ctime_ns", "mode")
        for name in stable:
            assert getattr(row, name) == getattr(want, name), (name, row, want)

    # --- steps ---

    async def find(self, folder: int, name: int) -> tuple[int, bytes]:
        """Some folder and a name in it, there or not."""
        parent = 1
        if folder:
            try:
                parent = (await self.vfs.lookup(1, FOLDERS[folder % 2])).ino
            except CloudVergeError:
                pass
        return parent, NAMES[name % len(NAMES)]

    def find_there(self, which: int) -> tuple[int, bytes]:
        """Some name of a file or symlink that is there."""
        there = [(e.parent, e.name) for e in self.model().dentries.values() if not stat.S_ISDIR(e.kind)]
        return there[which % len(there)] if there else (1, NAMES[0])

    async def step(self, kind: str, a: int, b: int, c: int) -> None:
        vfs = self.vfs
        parent, name = await self.find(a % 3, b)
        if kind == "mkdir":
            await vfs.mkdir(1, FOLDERS[a % 2], 0o755, ROOT)
        elif kind == "rmdir":
            await vfs.rmdir(1, FOLDERS[a % 2])
        elif kind == "swap folders":
            await vfs.rename(1, FOLDERS[0], 1, FOLDERS[1], c % 3)
        elif kind == "create":
            fh, row = await vfs.create(parent, name, 0o644, os.O_RDWR | os.O_EXCL, ROOT)
            self.handles[row.ino] = fh
            self.floor[row.ino], self.since[row.ino] = b"", [b""]
        elif kind == "nameless":
            await self.nameless(parent, name, b, c)
        elif kind == "symlink":
            await vfs.symlink(parent, name, b"target", USER)
        elif kind == "unlink":
            await vfs.unlink(*self.find_there(c))
        elif kind == "ship":
            self.meta.faults = [(None, "before", "after")[c % 3]]
            try:
                await vfs.core.shipper.ship_once()
            except CloudVergeError:
                pass
            self.meta.faults = []
        elif kind == "replica":
            await vfs.core.writer.write()
        elif kind == "new chunk":
            self.bytes.new_chunk()
        elif kind == "sync":
            await vfs.core.content.flush_all()
            while len(vfs.core.ledger.outbox):
                await vfs.core.shipper.ship_once()
        elif kind == "reopen":
            self.rights.reopen()
        else:
            await self.file_step(kind, *self.find_there(a + b), a, b, c)

    async def nameless(self, parent: int, name: bytes, b: int, c: int) -> None:
        """A file of O_TMPFILE: written, given a name or not, closed or left open."""
        fh, row = await self.vfs.tmpfile(parent, 0o600, 0, ROOT)
        self.handles[row.ino] = fh
        self.floor[row.ino], self.since[row.ino] = b"", [b""]
        self.stamp += 1
        if b % 4:
            await self.vfs.write(fh, b % 3, bytes([self.stamp % 255 + 1]) * (b % 4))
            await self.changed(row.ino, is_safe=False)
        if c % 2:
            await self.vfs.flush(fh)
        if c % 3:
            had = await self.content(row.ino)
            await self.vfs.link(row.ino, parent, name)
            self.had[await self.entry(parent, name)] = had
            await self.changed(row.ino, is_safe=True)
        if c % 5 == 0:
            await self.vfs.flush(fh)
            await self.vfs.release(fh)
            del self.handles[row.ino]

    async def file_step(self, kind: str, parent: int, name: bytes, a: int, b: int, c: int) -> None:
        vfs = self.vfs
        row = await vfs.lookup(parent, name)
        ino = row.ino
        if kind in ("rename", "fsync", "link"):
            new_parent, new_name = await self.find(c % 3, b + c)
            had = await self.content(ino) if row.is_file else b""
            there = None
            if kind == "rename":
                flags = c // 3 % 3
                try:
                    there = await vfs.lookup(new_parent, new_name)
                except CloudVergeError:
                    pass
                await vfs.rename(parent, name, new_parent, new_name, flags)
            else:
                await vfs.link(ino, new_parent, new_name)
            entry = (await self.entry(new_parent, new_name)) if there is None or there.ino != ino else None
            if entry is not None and row.is_file:
                self.had[entry] = had
                await self.changed(ino, is_safe=True)
            if (
                there is not None
                and there.is_file
                and kind == "rename"
                and c // 3 % 3 == 2
                and there.ino != ino
            ):
                await self.changed(there.ino, is_safe=True)
        elif kind == "setattr":
            changes = (SetattrRequest(mode=0o4755), SetattrRequest(mtime_ns=c), SetattrRequest(uid=c))[c % 3]
            if not stat.S_ISLNK(row.mode):
                await vfs.setattr(ino, changes, ROOT)
        elif kind == "xattr":
            await vfs.setxattr(ino, b"user.k", bytes([c]), 0)
        elif row.is_file:
            await self.content_step(kind, ino, a, b, c)

    async def entry(self, parent: int, name: bytes) -> int:
        return self.vfs.core.rows.name(parent, name).dentry

    async def content_step(self, kind: str, ino: int, a: int, b: int, c: int) -> None:
        vfs = self.vfs
        if kind == "fsync":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(vfs.core.shipper.run)
                await vfs.core.fsync(ino)
                nursery.cancel_scope.cancel()
            assert contents_of(self.server, self.disk, ino) == await self.content(ino)
            await self.changed(ino, is_safe=True)
            return
        if kind == "upload":
            self.bytes.upload(ino, 2 if c % 2 else 1 << 60)
            return
        if ino not in self.handles:
            flags = os.O_RDWR | (os.O_APPEND if c % 2 else 0)
            self.handles[ino] = (await vfs.open(ino, flags, USER if c % 3 else ROOT)).fh
        fh = self.handles[ino]
        if kind == "write":
            self.stamp += 1
            await vfs.write(fh, a % 7, bytes([self.stamp % 255 + 1]) * (b % 5 + 1))
            await self.changed(ino, is_safe=False)
        elif kind == "truncate":
            was = vfs.core.content.is_dirty(ino)
            await vfs.setattr(ino, SetattrRequest(size=c % 9), ROOT)
            await self.changed(ino, is_safe=not was)
        elif kind == "allocate":
            was = vfs.core.content.is_dirty(ino)
            await vfs.fallocate(fh, (3, 3, 0, 1, 16, 17)[c % 6], a % 7, b % 5 + 1)
            await self.changed(ino, is_safe=not was)
        elif kind == "copy":
            others = [each for each in self.handles.values() if not vfs.core.handles.file(each).append]
            if others:
                into = others[a % len(others)]
                other = vfs.core.handles.file(into).ino
                was = vfs.core.content.is_dirty(other)
                await vfs.copy_file_range(fh, a % 4, into, b % 6, b % 5 + 1)
                await self.changed(other, is_safe=not was)
        elif kind == "close":
            await vfs.flush(fh)
            await self.changed(ino, is_safe=True)
        elif kind == "release":
            await vfs.flush(fh)
            await self.changed(ino, is_safe=True)
            await vfs.release(fh)
            del self.handles[ino]


MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
KINDS = (
    "mkdir", "mkdir", "rmdir", "swap folders", "create", "create", "symlink", "unlink", "ship", "ship", "replica",
    "new chunk", "sync", "reopen", "rename", "rename", "rename", "fsync", "link", "setattr", "xattr", "upload",
    "upload", "write", "write", "write", "truncate", "close", "close", "release", "kill", "kill",
    "allocate", "allocate", "copy", "copy", "nameless",
)  # fmt: skip

small = st.integers(0, 17)
steps = st.lists(st.tuples(st.sampled_from(KINDS), small, small, small), max_size=60)
BEGINNING = [("mkdir", 1, 0, 0), ("create", 1, 0, 0), ("write", 0, 0, 4), ("create", 0, 1, 0)]


async def live(program) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        world = World(Path(folder))
        await world.start([])
        began = 0
        for kind, a, b, c in BEGINNING + program:
            if kind == "kill":
                faults = [None] * (b % 6) + ["before"] if b % 3 == 0 else []
                await world.kill(a % 4, c % 5 == 0, faults, began)
                began = world.journal.end
                continue
            began = world.journal.end
            world.remember_floors()
            try:
                await world.step(kind, a, b, c)
            except CloudVergeError as error:
                event(f"{kind}: {error.code.name}")
            # a program may be killed inside this step, but not before an answer that reached the server
            if kind in ("ship", "sync", "reopen", "fsync"):
                began = world.journal.end
        await world.check_view()
        for fh in list(world.handles.values()):
            await world.vfs.release(fh)
        world.handles.clear()
        await world.step("sync", 0, 0, 0)
        assert not len(world.vfs.core.holding)
        await world.check_view()
        assert not world.server.refused, "nothing was refused: nobody else was here"
        await world.kill(0, True, [], world.journal.end)
        await world.step("sync", 0, 0, 0)
        await world.vfs.core.shipper.ship_once()
        same_on_server(world)
        world.journal.close()
        world.vfs.core.rows.replica.close()


def same_on_server(world: World) -> None:
    model, rows = world.model(), world.server.rows
    assert rows.dentries == model.dentries
    named = {entry.ino for entry in model.dentries.values()} | {1}
    assert set(rows.inodes) == named
    for ino in named:
        assert rows.inodes[ino] == model.inodes[ino]
        assert rows.file_extents(ino) == model.file_extents(ino)
    assert {ino: held for ino, held in rows.attributes.items() if ino in named} == {
        ino: held for ino, held in model.attributes.items() if ino in named
    }
    for ino, content in world.floor.items():
        if ino in rows.inodes and rows.inodes[ino].is_file:
            assert contents_of(world.server, world.disk, ino) == content


@given(steps)
@settings(deadline=None)
def test_nothing_is_lost_reordered_or_done_twice(program) -> None:
    trio.run(live, program)


@pytest.fixture(scope="module")
def cramped():
    """Caches, queue and journal segments so small that everything is evicted, read back and trimmed."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (rows, "NODES_MAX", 3),
            (rows, "NAMES_MAX", 3),
            (filerows, "REGIONS_MAX", 8),
            (filerows, "XATTRS_MAX", 1),
        ):
            patch.setattr(module, name, value)
        patch.setattr(journal, "SEGMENT_BYTES", 600)
        patch.setattr(outbox, "ITEMS_MAX", 4)
        yield


@given(steps)
@settings(deadline=None)
def test_the_same_holds_when_nothing_fits_into_memory(cramped, program) -> None:
    trio.run(live, program)


@pytest.mark.soak
@pytest.mark.timeout(3000)
@given(steps)
@settings(deadline=None, max_examples=5000)
def test_nothing_is_lost_reordered_or_done_twice_for_long(program) -> None:
    trio.run(live, program)
