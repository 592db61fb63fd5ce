"""What has ended lately, asked of auth twice a second and kept in memory.

Auth lists what ended in the last three minutes; there is no cursor, so nothing is lost whatever the order of its
commits, and a process that has just started learns all that still matters. What is noted here is forgotten
``KEEP_S`` after auth has listed it last: every ticket from before has run out by then.

An epoch counts here the moment it is learned. Whoever has to do something about it (``on_raised``) is told beside
the polling, so that a slow one delays no other and no poll, and is told again until it has succeeded.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from cloudverge_metaserver.authority import Authority, Ended
from cloudverge_protocol.errors import CloudVergeError
from cloudverge_protocol.ids import Epoch, SpaceId

_log = structlog.get_logger("cloudverge.metaserver")

POLL_S: Final = 0.5
KEEP_S: Final = 180.0
TELL_AGAIN_S: Final = 1.0

OnRaised = Callable[[dict[SpaceId, Epoch]], Awaitable[None]]


class Revocations:
    """``run`` keeps it up to date; everything else only looks."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._epochs: dict[SpaceId, tuple[Epoch, float]] = {}  # and when auth listed it last
        self._links: dict[int, float] = {}
        self.deleted: frozenset[SpaceId] = frozenset()  # spaces to be purged
        self.learned_at_s = float("-inf")  # of the monotonic clock: the last answer
        self.on_raised: list[OnRaised] = []
        self.on_deleted: Callable[[], None] = lambda: None
        self._owed: dict[OnRaised, dict[SpaceId, Epoch]] = {}
        self._news = asyncio.Event()
        self._reachable = True

    def epoch_of(self, space: SpaceId) -> Epoch:
        """The highest epoch that was raised lately; 0 if none was."""
        known = self._epochs.get(space)
        return known[0] if known else Epoch(0)

    def lately(self) -> dict[SpaceId, Epoch]:
        """All epochs that were raised while a ticket of before could still live."""
        return {space: epoch for space, (epoch, _) in self._epochs.items()}

    def ended(self, link: int, space: SpaceId) -> bool:
        """Whether this link of this space opens nothing any more, as far as is known now."""
        return link in self._links or space in self.deleted

    async def poll(self) -> None:
        """Ask auth once; raises Unavailable."""
        ended = await self._authority.ended()
        self.learned_at_s = now_s = time.monotonic()
        raised = self._note(ended, now_s)
        self._forget(now_s)
        for callback in self.on_raised if raised else ():
            self._owed.setdefault(callback, {}).update(raised)
            self._news.set()

    def _note(self, ended: Ended, now_s: float) -> dict[SpaceId, Epoch]:
        raised = {}
        for number, epoch in ended.spaces.items():
            space, known = SpaceId(number), self.epoch_of(SpaceId(number))
            if epoch > known:
                raised[space] = Epoch(epoch)
            self._epochs[space] = (max(known, Epoch(epoch)), now_s)
        self._links.update(dict.fromkeys(ended.links, now_s))
        before, self.deleted = self.deleted, frozenset(map(SpaceId, ended.deleted))
        if self.deleted - before:
            self.on_deleted()
        return raised

    def _forget(self, now_s: float) -> None:
        oldest_s = now_s - KEEP_S
        self._epochs = {space: row for space, row in self._epochs.items() if row[1] >= oldest_s}
        self._links = {link: seen_s for link, seen_s in self._links.items() if seen_s >= oldest_s}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._poll_on())
            tasks.create_task(self._tell_on())

    async def _poll_on(self) -> None:
        while True:
            try:
                await self.poll()
                reachable = True
            except CloudVergeError as error:
                reachable = False
                if self._reachable:
                    _log.warning("what has been revoked is not known just now", reason=error.message)
            except Exception:
                _log.exception("failed", job="revocations")
            self._reachable = reachable
            await asyncio.sleep(POLL_S)

    async def _tell_on(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            owed, self._owed = self._owed, {}
            if not all(await asyncio.gather(*(self._tell(*each) for each in owed.items()))):
                await asyncio.sleep(TELL_AGAIN_S)
                self._news.set()

    async def _tell(self, callback: OnRaised, raised: dict[SpaceId, Epoch]) -> bool:
        try:
            await callback(raised)
        except CloudVergeError as error:
            _log.info("put off", job="revocations", reason=error.message)
        except Exception:
            _log.exception("failed", job="revocations")
        else:
            return True
        self._owed[callback] = raised | self._owed.get(callback, {})
        return False
