"""The session: this mount's right to act on its space, opened, kept alive, and opened again when it was lost.

The lease is renewed every third of its length at least, and often enough to hear soon that a right has ended; at once
when a server does not believe us (``doubt``). What can go wrong, and what then holds:

* The metaserver does not answer: the lease runs out, ``offline`` becomes true, names and cached bytes are served
  on, and renewing is tried every second.
* The lease is lost (FENCED: a restarted or restored server, or a takeover): the session is opened again. Its new
  incarnation is announced to those who asked (``on_reopened``): they drop open chunks and use new numbers.
* Our right to the space was taken away: auth says so when asked. ``on_revoked`` is told, and this is the end.
* Somebody else holds the space meanwhile (SPACE_IN_USE) or we may no longer use it: ``read_only`` becomes true and
  ``trouble`` says why; opening is tried again now and then. Nothing waits for that.

Nothing here suspends but ``open``, ``ensure_ids``, ``run`` and ``close``; the rest are plain reads.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog
import trio

from cloudverge_mount.idrange import IdSupply
from cloudverge_mount.lease import RETRY_S, Lease, boottime, holder_lives
from cloudverge_mount.metaclient import MetaClient
from cloudverge_mount.tlsfaults import Untrusted
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, Unavailable
from cloudverge_protocol.ids import EntryNumber, Epoch, Incarnation, Seq, SessionId, SpaceId
from cloudverge_protocol.messages import Ids, SessionOpen, SessionRef, SessionRenewed, SessionReply

START_WAIT_S: Final = 30.0  # for servers that are just starting
IN_USE_POLL_S: Final = 1.0
REOPEN_EVERY_S: Final = 3.0
READER_EVERY_S: Final = 1.0
WRITER_EVERY_S: Final = 2.0
REVOKING: Final = (Code.UNAUTHORIZED, Code.FORBIDDEN, Code.NOT_FOUND)
GRACE_S: Final = 2.0  # after a foreign lease should have ended

_log = structlog.get_logger()


class Session:
    """The session of one cache folder on one space; ``open`` it, then keep ``run`` running."""

    def __init__(
        self,
        meta: MetaClient,
        request: SessionOpen,
        clock: Callable[[], float] = boottime,
        entitled: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._meta = meta
        self._request = request
        self._clock = clock
        self._entitled = entitled  # asks auth; raises what it refuses us with
        self._on_revoked: Callable[[CloudVergeError], None] | None = None
        self._reply: SessionReply | None = None
        self._lease = Lease(0.0, 0.0)
        self._callbacks: list[Callable[[], None]] = []
        self._on_seq: list[Callable[[int], None]] = []
        self._seq_now = 0
        self._ids = IdSupply(self._ask_ids)
        self._doubted = trio.Event()
        self._used = (0, 0)
        self._used_seq = 0  # as of which that is
        self._quota = (0, 0)
        self._promised = (0, 0)
        self._claims: Callable[[bool], tuple[int, int]] = _nothing
        self._asking = (
            trio.Lock()
        )  # answers of renewals must not overtake each other: they tell what is promised
        self._asked = 0
        self._free = (0, 0)  # room on the servers, and what was used when they told it
        self._peak_bytes = 0  # the most that has been used since
        self.trouble = ""  # why we may not change anything, for people

    # --- what it is --------------------------------------------------------------------------------------

    @property
    def _granted(self) -> SessionReply:
        if self._reply is None:
            raise Unavailable(Code.UNAVAILABLE, "the session is not open yet")
        return self._reply

    @property
    def cluster(self) -> str:
        """The cluster's id, as the metaserver told it."""
        return self._meta.link.server.cluster if self._meta.link.server else ""

    @property
    def history(self) -> str:
        """The history id of its database."""
        return self._meta.link.server.history if self._meta.link.server else ""

    @property
    def space(self) -> SpaceId:
        return self._request.space

    @property
    def session(self) -> SessionId:
        return self._granted.session

    @property
    def incarnation(self) -> Incarnation:
        return self._granted.incarnation

    @property
    def lease_epoch(self) -> Epoch:
        return self._granted.lease_epoch

    @property
    def seq(self) -> Seq:
        return self._granted.seq

    @property
    def seq_now(self) -> int:
        return self._seq_now

    @property
    def confined(self) -> bool:
        """Whether the session reaches a sub-tree only."""
        return self._granted.confined

    @property
    def high_water(self) -> Mapping[Incarnation, EntryNumber]:
        return dict(self._granted.high_water)

    @property
    def replicas(self) -> int:
        return self._granted.replicas

    @property
    def read_only(self) -> bool:
        """Whether nothing may be changed: a reader's role, or a right that was lost."""
        return self._granted.read_only or bool(self.trouble)

    @property
    def quota_bytes(self) -> int:
        return self._quota[0]

    @property
    def quota_inodes(self) -> int:
        return self._quota[1]

    @property
    def promised_bytes(self) -> int:
        return self._promised[0]

    @property
    def promised_inodes(self) -> int:
        return self._promised[1]

    @property
    def used_bytes(self) -> int:
        return self._used[0]

    @property
    def used_inodes(self) -> int:
        return self._used[1]

    @property
    def free_bytes(self) -> int:
        """Room on the servers, less what was taken since they told it; what was removed comes later."""
        free, used_then = self._free
        return max(0, free - (self._peak_bytes - used_then))

    @property
    def offline(self) -> bool:
        """Whether the lease has run out without an answer."""
        return not self._lease.is_valid(self._clock())

    @property
    def state(self) -> str:
        """DORMANT, EXCLUSIVE or SHARED. Alone on a space, a session is EXCLUSIVE while its lease holds."""
        return "DORMANT" if self.offline or self.trouble else "EXCLUSIVE"

    def ref(self) -> SessionRef:
        """How requests name this session."""
        granted = self._granted
        return SessionRef(granted.session, granted.incarnation, granted.lease_epoch)

    def note_use(self, used_bytes: int, used_inodes: int, seq: int) -> None:
        """A batch reply has told what the space uses as of ``seq``; answers overtake each other."""
        if seq < self._used_seq:
            return
        self._used, self._used_seq = (used_bytes, used_inodes), seq
        self._peak_bytes = max(self._peak_bytes, used_bytes)

    def on_reopened(self, callback: Callable[[], None]) -> None:
        """Call this whenever the session has been opened again."""
        self._callbacks.append(callback)

    def on_revoked(self, callback: Callable[[CloudVergeError], None]) -> None:
        """Call this when the right to the space is lost for good; nothing is renewed after that."""
        self._on_revoked = callback

    def on_claim(self, claims: Callable[[bool], tuple[int, int]]) -> None:
        """Ask this what to claim of a shared quota, in bytes and inodes; with True when more is wanted."""
        self._claims = claims

    def on_seq(self, callback: Callable[[int], None]) -> None:
        """Call this with the space's seq whenever it is told."""
        self._on_seq.append(callback)

    # --- opening -----------------------------------------------------------------------------------------

    async def open(self, wait_s: float = START_WAIT_S) -> None:
        """Become the active mount of the space.

        Waits for servers that are starting, and for the lease of another device to end if that one does not
        renew it. Raises Denied(SPACE_IN_USE), naming the device, as soon as it is seen to be alive.
        """
        give_up_at = self._clock() + wait_s
        foreign_end: float | None = None
        while True:
            try:
                await self._open_once()
                await self._renew()  # which also tells the room that is left
                return
            except Untrusted:
                raise
            except Unavailable:
                if self._clock() > give_up_at:
                    raise
                await trio.sleep(RETRY_S / 4)
            except Denied as error:
                end = self._clock() + error.retry_after_s
                alive = foreign_end is not None and holder_lives(foreign_end, end)
                overdue = foreign_end is not None and self._clock() > foreign_end + GRACE_S
                if error.code != Code.SPACE_IN_USE or not error.retry_after_s or alive or overdue:
                    raise
                foreign_end = end if foreign_end is None else foreign_end
                await trio.sleep(min(IN_USE_POLL_S, error.retry_after_s))

    async def _open_once(self) -> None:
        async with self._asking:
            asked_at = self._clock()
            reply = await self._meta.open_session(self._request)
            self._reply = reply
            self._told(asked_at, reply)
            self._used, self._used_seq = (reply.used_bytes, reply.used_inodes), reply.seq
            self._ids.begin(reply.first_id, reply.ids)
            self.trouble = ""

    def _told(self, asked_at: float, reply: SessionReply | SessionRenewed) -> None:
        """What each answer about the session tells anew."""
        self._lease = Lease(asked_at, reply.lease_s)
        self._quota = (reply.quota_bytes, reply.quota_inodes)
        self._promised = (reply.promised_bytes, reply.promised_inodes)
        self._seq_now = reply.seq

    async def close(self) -> None:
        """Give the lease back; everything must have been shipped."""
        await self._meta.close_session(self.ref())

    # --- keeping it alive --------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Renew the lease and the ids; runs until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            nursery.start_soon(self._keep_lease)
            nursery.start_soon(self._ids.run)

    async def _keep_lease(self) -> None:
        while True:
            with trio.move_on_after(self._pause_s()):
                await self._doubted.wait()
            try:
                await (self._reopen() if self.trouble else self._renew())
            except Unavailable as error:
                _log.info("the lease could not be renewed", reason=error.message)
                await trio.sleep(RETRY_S)
            except CloudVergeError as error:
                await self._lost(error)
            self._doubted = trio.Event()  # what was doubted meanwhile has been answered

    def doubt(self) -> None:
        """A server did not believe our ticket: find out soon whether our right has ended."""
        if not self.trouble:
            self._doubted.set()

    def _pause_s(self) -> float:
        """Until the next renewal; who only reads asks more often, for that is how he hears of changes."""
        if self.trouble:
            return REOPEN_EVERY_S
        every_s = READER_EVERY_S if self._granted.read_only else WRITER_EVERY_S
        return min(self._lease.renewal_in(self._clock()), every_s)

    async def _renew(self) -> None:
        async with self._asking:
            await self._ask(wants=False)

    async def ask_promise(self) -> None:
        """Renew now, and claim more: what is used has changed, and with it what we may use."""
        asked = self._asked
        async with self._asking:
            if self._asked == asked:  # nobody has asked since we came
                await self._ask(wants=True)

    async def _ask(self, *, wants: bool) -> None:
        self._asked += 1
        asked_at = self._clock()
        claims = self._claims(wants)
        self._promised = min(self._promised[0], claims[0]), min(self._promised[1], claims[1])
        ref = self.ref()
        renewed = await self._meta.renew(SessionRef(ref.session, ref.incarnation, ref.lease_epoch, *claims))
        self._told(asked_at, renewed)
        self.note_use(renewed.used_bytes, renewed.used_inodes, renewed.seq)
        self._free = (renewed.free_bytes, renewed.used_bytes)
        self._peak_bytes = self._used[0]
        for callback in self._on_seq:
            callback(renewed.seq)

    async def _lost(self, error: CloudVergeError) -> None:
        if not self.trouble:
            _log.warning("the lease is lost", reason=error.message, code=error.code.name)
        try:
            await self._reopen()
        except Unavailable:
            await trio.sleep(RETRY_S)
        except CloudVergeError as refusal:
            self.trouble = refusal.message
            if await self._is_revoked(refusal):
                _log.critical("the right to this space is lost", reason=refusal.message)
                if self._on_revoked is not None:
                    self._on_revoked(refusal)
                await trio.sleep_forever()

    async def _is_revoked(self, refusal: CloudVergeError) -> bool:
        """Whether a refusal is for good: auth itself says so, or what we were given is gone."""
        if refusal.code not in REVOKING or self._entitled is None:
            return False
        try:
            await self._entitled()
        except CloudVergeError as error:
            return error.code in REVOKING
        return refusal.code == Code.NOT_FOUND

    async def _reopen(self) -> None:
        await self._open_once()
        _log.warning("the session has been opened again", incarnation=self.incarnation)
        for callback in self._callbacks:
            callback()

    # --- ids ---------------------------------------------------------------------------------------------

    def take_id(self) -> int:
        """One id for a new inode or dentry; raises Unavailable when none is at hand."""
        return self._ids.take()

    async def ensure_ids(self, count: int) -> None:
        """Wait until ``count`` ids are at hand; raises Unavailable."""
        await self._ids.ensure(count)

    async def _ask_ids(self, count: int) -> range:
        ref = self.ref()
        reply = await self._meta.ids(Ids(ref.session, ref.incarnation, ref.lease_epoch, count))
        if reply.count <= 0:
            raise Unavailable(Code.UNAVAILABLE, "the metaserver gives no more inode numbers")
        if ref.incarnation != self.incarnation:
            return range(0)  # they were given to the one before
        return range(reply.first, reply.first + reply.count)


def _nothing(wants: bool) -> tuple[int, int]:
    """Who accepts nothing claims nothing."""
    return 0, 0
