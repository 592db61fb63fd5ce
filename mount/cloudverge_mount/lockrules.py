"""Who has which lock and who gets it next, for all files of one mount: fcntl(2), flock(2). Pure: no loop, no clock.

A file has two sorts of locks that know nothing of each other: those of byte ranges (POSIX ones, and those of open
file descriptions, which differ by their owner only) and those of flock(2), on all of it. Invariants:

- No two claims held by different owners on one file and of one sort collide.
- Who waits is in the way of somebody, or waits politely (below). Whatever may end a wait looks for those it ends, in
  the order they came, so no wake-up is lost; an owner's own claims never are in his way.
- A claim that would close a circle of POSIX owners who wait for each other is refused, as Linux does for its own
  files; so is one that waits already when a circle is closed by what somebody else gets.
- Locks and waiters are counted, and refused beyond a number (ENOLCK).

Politeness: a new claim that collides with one which came before it and still waits, lets that one go first, or
readers who follow close upon each other would keep a writer out for ever. It must not last: the reader may be what
the holder is waiting for (``flock -s F flock -s F true``), so the caller ends it after a while with ``hurry``. Who
holds something of the file already is never polite, nor who would rather be refused than wait.
"""

import enum
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from cloudverge_mount.ranges import END_MAX, Claim, collide, including, without
from cloudverge_protocol.errors import Code, Refused

LOCKS_MAX: Final = 20_000
WAITERS_MAX: Final = 2_000


class Key(NamedTuple):
    """The locks of one sort of one file."""

    ino: int
    is_flock: bool


class Outcome(enum.Enum):
    """How waiting has ended."""

    GRANTED = enum.auto()
    DEADLOCK = enum.auto()
    CROWDED = enum.auto()  # it could have been granted, but there are too many locks
    GONE = enum.auto()  # the owner has gone


class Waiter:
    """Somebody who waits for a claim; ``outcome`` is None until that is decided.

    One that is ``paused`` keeps its place, but must not be granted anything: it may be about to withdraw.
    """

    __slots__ = ("claim", "key", "outcome", "paused", "polite")

    def __init__(self, key: Key, claim: Claim, *, polite: bool) -> None:
        self.key = key
        self.claim = claim
        self.polite = polite
        self.paused = False
        self.outcome: Outcome | None = None


class LockRules:
    """See the module's text. ``decided`` is told of each waiter whose outcome is there; it must not call back."""

    def __init__(
        self,
        decided: Callable[[Waiter], None],
        locks_max: int = LOCKS_MAX,
        waiters_max: int = WAITERS_MAX,
    ) -> None:
        self._decided = decided
        self._locks_max = locks_max
        self._waiters_max = waiters_max
        self._held: dict[Key, dict[int, list[Claim]]] = {}
        self._waiting: dict[Key, list[Waiter]] = {}
        self._waits_of: dict[int, list[Waiter]] = {}  # of owners of ranges, on whatever file
        self.locks = 0
        self.waiters = 0

    def __bool__(self) -> bool:
        """Whether anything is locked or waited for."""
        return bool(self._held or self._waiting)

    # --- asking ------------------------------------------------------------------------------------------

    def first_conflict(self, key: Key, claim: Claim) -> Claim | None:
        """Of what is in the way of a claim, that which starts first; None: it could be had now."""
        return min(self._conflicts(key, claim), key=lambda held: held.start, default=None)

    def attempt(self, key: Key, claim: Claim) -> bool:
        """Take a claim if it can be had now. Raises Refused(NO_LOCKS)."""
        self._unlock_to_convert(key, claim)
        if any(self._conflicts(key, claim)):
            return False
        self._take(key, claim)
        self._settle(key, {claim.owner})
        return True

    def ask(self, key: Key, claim: Claim) -> Waiter | None:
        """Take a claim now (None) or wait for it. Raises Refused: DEADLOCK, NO_LOCKS."""
        self._unlock_to_convert(key, claim)
        blocked = any(self._conflicts(key, claim))
        polite = claim.owner not in self._held.get(key, ())
        if not blocked and not (polite and self._is_behind(claim, self._waiting.get(key, ()))):
            self._take(key, claim)
            self._settle(key, {claim.owner})
            return None
        if self.waiters >= self._waiters_max:
            raise Refused(Code.NO_LOCKS, f"{self.waiters} wait for locks already")
        if blocked and self._closes_circle(key, claim):
            raise Refused(Code.DEADLOCK, "those who hold the lock wait for what this owner holds")
        return self._enqueue(Waiter(key, claim, polite=polite))

    def hurry(self, waiter: Waiter) -> None:
        """It has been polite for long enough, and is not paused."""
        waiter.polite = waiter.paused = False
        self._settle(waiter.key, set())

    def withdraw(self, waiter: Waiter) -> None:
        """It does not want to wait any more; nothing happens to one that is decided."""
        if waiter.outcome is None:
            self._dequeue(waiter)
            self._settle(waiter.key, set())

    # --- letting go --------------------------------------------------------------------------------------

    def release(self, key: Key, owner: int, start: int = 0, end: int = END_MAX) -> None:
        """An owner gives up a range. Raises Refused(NO_LOCKS) if that leaves two parts and there is no room."""
        mine = self._held.get(key, {}).get(owner)
        if mine is not None:
            self._put(key, owner, mine, without(mine, start, end))
            self._settle(key, set())

    def forget(self, key: Key, owner: int) -> None:
        """The owner is no more: neither are his locks, nor his waits."""
        for waiter in [each for each in self._waiting.get(key, ()) if each.claim.owner == owner]:
            self._decide(waiter, Outcome.GONE)
        self.release(key, owner)
        self._settle(key, set())

    # --- what is held ------------------------------------------------------------------------------------

    def _conflicts(self, key: Key, claim: Claim) -> Iterable[Claim]:
        for owner, claims in self._held.get(key, {}).items():
            if owner != claim.owner:
                yield from (held for held in claims if collide(held, claim))

    def _unlock_to_convert(self, key: Key, claim: Claim) -> None:
        """flock(2) converts by unlocking first; whoever waits for that is served before us, or both might wait."""
        mine = self._held.get(key, {}).get(claim.owner) if key.is_flock else None
        if mine and mine[0].exclusive != claim.exclusive:
            self.release(key, claim.owner)

    def _take(self, key: Key, claim: Claim) -> None:
        mine = self._held.get(key, {}).get(claim.owner, [])
        self._put(key, claim.owner, mine, including(mine, claim))

    def _put(self, key: Key, owner: int, mine: list[Claim], claims: list[Claim]) -> None:
        growth = len(claims) - len(mine)
        if growth > 0 and self.locks + growth > self._locks_max:
            raise Refused(Code.NO_LOCKS, f"there are {self.locks} locks already")
        self.locks += growth
        if claims:
            self._held.setdefault(key, {})[owner] = claims
        elif mine:
            del self._held[key][owner]
            if not self._held[key]:
                del self._held[key]

    # --- who waits ---------------------------------------------------------------------------------------

    def _enqueue(self, waiter: Waiter) -> Waiter:
        self._waiting.setdefault(waiter.key, []).append(waiter)
        if not waiter.key.is_flock:
            self._waits_of.setdefault(waiter.claim.owner, []).append(waiter)
        self.waiters += 1
        return waiter

    def _dequeue(self, waiter: Waiter) -> None:
        owner = waiter.claim.owner
        self._waiting[waiter.key].remove(waiter)
        if not self._waiting[waiter.key]:
            del self._waiting[waiter.key]
        if not waiter.key.is_flock:
            self._waits_of[owner].remove(waiter)
            if not self._waits_of[owner]:
                del self._waits_of[owner]
        self.waiters -= 1

    def _decide(self, waiter: Waiter, outcome: Outcome) -> None:
        self._dequeue(waiter)
        waiter.outcome = outcome
        self._decided(waiter)

    def _is_behind(self, claim: Claim, earlier: Iterable[Waiter]) -> bool:
        return any(collide(claim, other.claim) for other in earlier)

    def _settle(self, key: Key, granted: set[int]) -> None:
        """Serve those who wait here, in their order, until nobody can be; ``granted``: who has got something."""
        while key in self._waiting:
            still: list[Waiter] = []
            before = self.waiters
            for waiter in list(self._waiting[key]):
                if self._must_wait(waiter, still):
                    still.append(waiter)
                else:
                    granted.add(waiter.claim.owner)
                    self._grant(waiter)
            if self.waiters == before:
                break
        if not granted.isdisjoint(self._waits_of):
            self._break_circles(key)

    def _must_wait(self, waiter: Waiter, earlier: list[Waiter]) -> bool:
        if waiter.paused or any(self._conflicts(waiter.key, waiter.claim)):
            return True
        return waiter.polite and self._is_behind(waiter.claim, earlier)

    def _grant(self, waiter: Waiter) -> None:
        try:
            self._take(waiter.key, waiter.claim)
        except Refused:
            self._decide(waiter, Outcome.CROWDED)
        else:
            self._decide(waiter, Outcome.GRANTED)

    # --- circles -----------------------------------------------------------------------------------------

    def _closes_circle(self, key: Key, claim: Claim) -> bool:
        """Whether one of those in the way of a claim waits, over whomever, for its owner."""
        if key.is_flock:
            return False
        seen: set[int] = set()
        todo = [held.owner for held in self._conflicts(key, claim)]
        while todo:
            owner = todo.pop()
            if owner == claim.owner:
                return True
            if owner not in seen:
                seen.add(owner)
                for waiter in self._waits_of.get(owner, ()):
                    todo.extend(held.owner for held in self._conflicts(waiter.key, waiter.claim))
        return False

    def _break_circles(self, key: Key) -> None:
        """An owner with several threads can get something while he waits for something else."""
        before = self.waiters
        for waiter in list(self._waiting.get(key, ())):
            if self._closes_circle(key, waiter.claim):
                self._decide(waiter, Outcome.DEADLOCK)
        if self.waiters != before:
            self._settle(key, set())
