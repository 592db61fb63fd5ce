"""The parts of the names side together, and what all of ``vfs`` shares: trying, loading, trying again.

Each operation is a synchronous attempt that either does everything or raises. ``NotLoaded`` is answered by
loading, a used-up range of ids by asking for more, crowded buffers by waiting, ``NotStored`` by uploading; then it
is attempted again.
Nothing of this is needed in the usual case, which therefore never suspends.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

import trio
from msgspec.structs import replace

from cloudverge_mount.aside import Aside
from cloudverge_mount.gate import Gate
from cloudverge_mount.handles import Handles
from cloudverge_mount.holding import Held
from cloudverge_mount.ledger import Ledger
from cloudverge_mount.loader import Loader
from cloudverge_mount.localset import NotLoaded
from cloudverge_mount.quota import Spent
from cloudverge_mount.recovery import RestorableBytes
from cloudverge_mount.replicawriter import ReplicaWriter
from cloudverge_mount.rights import Rights
from cloudverge_mount.rows import CROWDED
from cloudverge_mount.shipper import Shipper
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import Code, Denied, NoRoom, Refused, Unavailable
from cloudverge_protocol.ids import InodeId
from cloudverge_protocol.inodes import Inode

T = TypeVar("T")

DEPARTED_MAX: Final = 10_000
HELD_MAX: Final = 20_000  # operations held at a time
ROOM_PATIENCE_S: Final = 25.0
IDS_AT_ONCE: Final = 2  # the most that one operation takes
ROUNDS_MAX: Final = 20
PROMISE_PAUSE_S: Final = 0.25
PROMISE_WAIT_S: Final = 5.5  # by then other mounts that need less have renewed and let go
STARVED_S: Final = 30.0  # after waiting in vain: who comes next asks once and does not wait
TRIES_MAX: Final = 1000  # each of which has loaded something


class OwnerPolicy(NamedTuple):
    """Who owns the files: as stored (``preserve``), or all of them this user."""

    preserve: bool
    uid: int
    gid: int


class Content(RestorableBytes, Protocol):
    """The bytes side, as the names side sees it."""

    async def write(
        self, ino: InodeId, offset: int, data: bytes, check: Callable[[], None] | None = None
    ) -> None: ...
    async def views(self, ino: InodeId, offset: int, length: int) -> list[Buffer]: ...
    async def flush(self, ino: InodeId) -> None: ...
    async def flush_all(self) -> None: ...


class Core:
    """Made by ``assembly``; see the module's text."""

    content: Content

    def __init__(
        self,
        ledger: Ledger,
        loader: Loader,
        writer: ReplicaWriter,
        shipper: Shipper,
        aside: Aside,
        gate: Gate,
        owners: OwnerPolicy,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.ledger = ledger
        self.rows = ledger.rows
        self.holding = ledger.holding
        self.pendings = ledger.pendings
        self.loader = loader
        self.writer = writer
        self.shipper = shipper
        self.aside = aside
        self.gate = gate
        self.owners = owners
        self.clock_ns = clock_ns
        self.handles = Handles()
        self.departed: dict[int, Inode] = {}  # removed folders that the kernel may still have open
        self._starved_until = 0.0

    @property
    def rights(self) -> Rights:
        """The session."""
        return self.ledger.rights

    # --- trying ------------------------------------------------------------------------------------------

    def is_calm(self) -> bool:
        """Whether an operation may be attempted at once."""
        return (
            self.gate.closed is None
            and len(self.rows.changes.nodes) < CROWDED
            and len(self.holding.held) < HELD_MAX
        )

    async def retry(self, attempt: Callable[..., T], *arguments: object) -> T:
        """``attempt(*arguments)``, with all that it may have to wait for."""
        give_up_at: float | None = None
        stored = 0
        for _ in range(TRIES_MAX):
            if not self.is_calm():
                await self.room()
            try:
                return attempt(*arguments)
            except Spent:
                give_up_at = await self._ask_promise(give_up_at)
            except NotLoaded as missing:
                await self.loader.load(missing)
            except OutOfIds:
                await self.rights.ensure_ids(IDS_AT_ONCE)
            except NotStored as waiting:
                stored += 1
                if stored > ROUNDS_MAX:
                    raise Unavailable(Code.TIMEOUT, "the file is written to all the time") from None
                await self._stored(waiting.ino)
        raise Unavailable(Code.INTERNAL, "the rows of an operation could not be brought together")

    async def _stored(self, ino: int) -> None:
        """Until what is dirty of this file now has entered, and nothing waits for it."""
        await self.content.flush(InodeId(ino))
        if self.holding.waits_for(ino) and not self.content.is_dirty(InodeId(ino)):
            await self.gate.passed()
            self.ledger.retry()  # the journal could not take it that no byte is left

    async def _ask_promise(self, give_up_at: float | None) -> float:
        """Ask for more of a shared quota; until when that may go on. Raises NoRoom when it has been long enough."""
        now = trio.current_time()
        if give_up_at is None:
            give_up_at = now if now < self._starved_until else now + PROMISE_WAIT_S
        elif now >= give_up_at:
            self._starved_until = now + STARVED_S
            raise NoRoom(Code.QUOTA, "the owner's quota is used up, or others are using it up")
        else:  # what we have accepted gets a moment to be committed
            self.shipper.hurry()
            await trio.sleep(PROMISE_PAUSE_S)
        await self.rights.ask_promise()
        return give_up_at

    async def room(self) -> None:
        """Wait for the gate and for room in the buffers; raises Unavailable if that takes too long."""
        await self.gate.passed()
        await self.writer.relief()
        with trio.move_on_after(ROOM_PATIENCE_S) as patience:
            while len(self.holding.held) >= HELD_MAX:
                self.shipper.hurry()
                await trio.sleep(0.05)
        if patience.cancelled_caught:
            raise Unavailable(Code.TIMEOUT, "too many renames wait for bytes that cannot be stored")

    def take_id(self) -> int:
        """One id; raises OutOfIds, which ``retry`` answers."""
        try:
            return self.rights.take_id()
        except Unavailable:
            raise OutOfIds from None

    def check_writable(self) -> None:
        """Refuse changes in a space that we may only read."""
        if self.rights.read_only:
            raise Denied(Code.READ_ONLY, "this space is mounted read-only")

    # --- rows --------------------------------------------------------------------------------------------

    def row(self, ino: int) -> Inode:
        """The inode as journaled."""
        node = self.rows.node(ino)
        if node is None:
            raise NotLoaded(inode=ino)
        if node.row is None:
            raise Refused(Code.NOT_FOUND, f"inode {ino} does not exist any more")
        return node.row

    def depart(self, row: Inode) -> None:
        """This folder has lost its name. Nobody tells us that folders are opened, so somebody may still ask for it."""
        self.departed[row.ino] = replace(row, nlink=0)
        if len(self.departed) > DEPARTED_MAX:
            del self.departed[next(iter(self.departed))]

    def shown(self, row: Inode) -> Inode:
        """The inode as it is seen locally: with what is pending, owned as the policy says."""
        pending = self.pendings.get(row.ino)
        if pending is not None:
            row = pending.over(row)
        owners = self.owners
        if owners.preserve or (row.uid == owners.uid and row.gid == owners.gid):
            return row
        return Inode(
            row.ino,
            row.mode,
            owners.uid,
            owners.gid,
            row.nlink,
            row.size,
            row.atime_ns,
            row.mtime_ns,
            row.ctime_ns,
            row.btime_ns,
            row.rdev,
            row.parent,
            row.entries,
            row.target,
            row.version,
        )

    # --- barriers ----------------------------------------------------------------------------------------

    async def fsync(self, ino: int) -> None:
        """Until all of this inode is durable and committed, without waiting for what does not meet it."""
        self._raise_failure(ino)
        await self.content.flush(InodeId(ino))
        await self._entered(self.holding.before(ino))
        await self.shipper.barrier()
        self._raise_failure(ino)

    async def sync(self) -> None:
        """Until everything done so far is durable and committed."""
        told = self.aside.reasons
        await self.content.flush_all()
        await self._entered(list(self.holding.held.values()))
        await self.shipper.barrier()
        if self.aside.reasons is not told:
            raise Unavailable(Code.INTERNAL, self.aside.reasons[-1])

    async def _entered(self, held: Sequence[Held]) -> None:
        """Until these held operations have entered (or were set aside): the bytes they wait for are stored."""
        for _ in range(ROUNDS_MAX):
            waiting = [one for one in held if self.holding.holds(one)]
            if not waiting:
                return
            for ino in sorted({ino for one in waiting for ino in one.sources}):
                await self.content.flush(InodeId(ino))
            await self.gate.passed()
            self.ledger.retry()
        raise Unavailable(Code.TIMEOUT, "files that a rename waits for are written all the time")

    def _raise_failure(self, ino: int) -> None:
        failure = self.aside.take_failure(ino)
        if failure is not None:
            raise failure


class NotStored(Exception):
    """Not an error, it is answered by uploading: these bytes must have entered first. Never leaves the names side."""

    def __init__(self, ino: int) -> None:
        super().__init__(ino)
        self.ino = ino


class OutOfIds(Exception):
    """The local range of ids is used up. Never leaves the names side."""
