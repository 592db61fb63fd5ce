"""The rules of locks against a map of bytes, over random histories; and those a map cannot show."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from cloudverge_mount.lockrules import Key, LockRules, Outcome, Waiter
from cloudverge_mount.ranges import END_MAX, Claim, collide
from cloudverge_protocol.errors import Code, Refused

BYTES = 6
REST = BYTES  # the byte that stands for all that follow
KEYS = [Key(ino, is_flock) for ino in (1, 2) for is_flock in (False, True)]
OWNERS = st.integers(1, 4)


def cells(claim: Claim) -> range:
    return range(claim.start, (REST if claim.end == END_MAX else claim.end) + 1)


def refused(code: Code):
    return pytest.raises(Refused, check=lambda error: error.code == code)


class Histories(RuleBasedStateMachine):
    """``map[key][byte][owner]``: whether exclusive. The rules decide who gets what; the map says whether they may."""

    waits = Bundle("waits")

    def __init__(self) -> None:
        super().__init__()
        self.rules = LockRules(self.decided)
        self.map: dict[Key, list[dict[int, bool]]] = {key: [{} for _ in range(REST + 1)] for key in KEYS}
        self.waiting: list[Waiter] = []

    def decided(self, waiter: Waiter) -> None:
        assert waiter.outcome is not None
        self.waiting.remove(waiter)
        if waiter.outcome is Outcome.GRANTED:
            assert not waiter.paused
            self.put(waiter.key, waiter.claim)

    def is_free(self, key: Key, claim: Claim) -> bool:
        return not any(
            owner != claim.owner and (exclusive or claim.exclusive)
            for cell in cells(claim)
            for owner, exclusive in self.map[key][cell].items()
        )

    def put(self, key: Key, claim: Claim) -> None:
        assert self.is_free(key, claim)
        for cell in cells(claim):
            self.map[key][cell][claim.owner] = claim.exclusive

    def drop(self, key: Key, owner: int, part: range = range(REST + 1)) -> None:
        for cell in part:
            self.map[key][cell].pop(owner, None)

    def blockers(self, key: Key, claim: Claim) -> set[int]:
        return {
            owner
            for cell in cells(claim)
            for owner, exclusive in self.map[key][cell].items()
            if owner != claim.owner and (exclusive or claim.exclusive)
        }

    def is_circular(self, key: Key, claim: Claim) -> bool:
        """Whether the owner would wait, by whatever way, for himself."""
        reached: set[int] = set()
        more = self.blockers(key, claim)
        while more - reached:
            reached |= more
            for waiter in self.waiting:
                if waiter.claim.owner in reached and not waiter.key.is_flock:
                    more |= self.blockers(waiter.key, waiter.claim)
        return not key.is_flock and claim.owner in reached

    def claim(self, key: Key, owner: int, start: int, length: int, exclusive: bool) -> Claim:
        if key.is_flock:
            return Claim(owner, 0, END_MAX, exclusive, owner)
        end = start + length - 1
        return Claim(owner, start, END_MAX if end >= REST else end, exclusive, owner)

    def convert(self, key: Key, claim: Claim) -> None:
        if key.is_flock and self.map[key][0].get(claim.owner, claim.exclusive) != claim.exclusive:
            self.drop(key, claim.owner)

    asking = {  # noqa: RUF012
        "key": st.sampled_from(KEYS),
        "owner": OWNERS,
        "start": st.integers(0, BYTES - 1),
        "length": st.integers(1, BYTES),
        "exclusive": st.booleans(),
    }

    def expect(self, key: Key, claim: Claim, *, waits: bool) -> bool:
        """Whether a claim must be had at once; then it is noted now, as it may let others in. Not for flock."""
        free = self.is_free(key, claim)
        if waits and not any(claim.owner in owners for owners in self.map[key]):
            free = free and not any(w.key == key and collide(w.claim, claim) for w in self.waiting)
        if free and not key.is_flock:
            self.put(key, claim)
        return free

    @rule(**asking)
    def attempt(self, key: Key, owner: int, start: int, length: int, exclusive: bool) -> None:
        claim = self.claim(key, owner, start, length, exclusive)
        self.convert(key, claim)
        expected = self.expect(key, claim, waits=False)
        taken = self.rules.attempt(key, claim)
        assert taken == expected or key.is_flock
        if taken and key.is_flock:
            self.put(key, claim)

    @rule(target=waits, **asking)
    def ask(self, key: Key, owner: int, start: int, length: int, exclusive: bool) -> Waiter | None:
        claim = self.claim(key, owner, start, length, exclusive)
        self.convert(key, claim)
        expected = self.expect(key, claim, waits=True)
        if self.is_circular(key, claim):
            with refused(Code.DEADLOCK):
                self.rules.ask(key, claim)
            return None
        waiter = self.rules.ask(key, claim)
        assert (waiter is None) == expected or key.is_flock
        if waiter is not None:
            self.waiting.append(waiter)
        elif key.is_flock:
            self.put(key, claim)
        return waiter

    @rule(waiter=consumes(waits))
    def withdraw(self, waiter: Waiter | None) -> None:
        if waiter is not None:
            if waiter in self.waiting:
                self.waiting.remove(waiter)
            self.rules.withdraw(waiter)

    @rule(waiter=waits)
    def pause(self, waiter: Waiter | None) -> None:
        if waiter in self.waiting:
            waiter.paused = True

    @rule(waiter=waits)
    def hurry(self, waiter: Waiter | None) -> None:
        if waiter in self.waiting:
            self.rules.hurry(waiter)

    @rule(**asking)
    def release(self, key: Key, owner: int, start: int, length: int, exclusive: bool) -> None:
        part = self.claim(key, owner, start, length, exclusive)
        self.drop(key, owner, cells(part))
        self.rules.release(key, owner, part.start, part.end)

    @rule(key=st.sampled_from(KEYS), owner=OWNERS)
    def forget(self, key: Key, owner: int) -> None:
        self.drop(key, owner)
        self.rules.forget(key, owner)
        assert not [each for each in self.waiting if (each.key, each.claim.owner) == (key, owner)]

    @invariant()
    def all_bytes_are_locked_as_the_map_says(self) -> None:
        for key in KEYS:
            for cell in range(REST + 1):
                for exclusive in (False, True):
                    stranger = Claim(99, cell, END_MAX if cell == REST else cell, exclusive, 0)
                    conflict = self.rules.first_conflict(key, stranger)
                    assert (conflict is None) == self.is_free(key, stranger)
                    if conflict is not None:
                        assert self.map[key][cell][conflict.owner] == conflict.exclusive

    @invariant()
    def nobody_waits_without_a_reason(self) -> None:
        assert self.rules.waiters == len(self.waiting)
        for place, waiter in enumerate(self.waiting):
            earlier = [each for each in self.waiting[:place] if each.key == waiter.key]
            polite = waiter.polite and any(collide(waiter.claim, each.claim) for each in earlier)
            assert polite or waiter.paused or not self.is_free(waiter.key, waiter.claim)

    @invariant()
    def nobody_waits_in_a_circle(self) -> None:
        assert not any(self.is_circular(waiter.key, waiter.claim) for waiter in self.waiting)

    def teardown(self) -> None:
        for key in KEYS:
            for owner in range(1, 5):
                self.forget(key, owner)
        assert not self.rules
        assert (self.rules.locks, self.rules.waiters) == (0, 0)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)

FILE = Key(1, is_flock=False)
OTHER = Key(2, is_flock=False)
FLOCK = Key(1, is_flock=True)


def exclusive(owner: int, start: int = 0, end: int = END_MAX) -> Claim:
    return Claim(owner, start, end, True, owner * 100)


def shared(owner: int, start: int = 0, end: int = END_MAX) -> Claim:
    return Claim(owner, start, end, False, owner * 100)


@pytest.fixture
def decided() -> list[Waiter]:
    return []


@pytest.fixture
def rules(decided) -> LockRules:
    return LockRules(decided.append, locks_max=4, waiters_max=3)


def test_the_conflict_that_starts_first_is_told_with_its_pid(rules) -> None:
    for owner, start in ((1, 50), (2, 10), (3, 30)):
        assert rules.attempt(FILE, shared(owner, start, start + 5))
    assert rules.first_conflict(FILE, exclusive(9, 20)) == shared(3, 30, 35)
    assert rules.first_conflict(FILE, exclusive(9)).pid == 200
    assert rules.first_conflict(FILE, shared(9)) is None
    assert rules.first_conflict(FLOCK, exclusive(9)) is None


def test_a_reader_lets_a_writer_go_first_who_waits_but_not_for_ever(rules, decided) -> None:
    assert rules.attempt(FILE, shared(1))
    writer = rules.ask(FILE, exclusive(2))
    reader = rules.ask(FILE, shared(3))
    assert rules.attempt(FILE, shared(4))  # nobody is refused for politeness
    assert rules.ask(FILE, shared(1, 5, 5)) is None  # nor does a holder wait: the writer waits for him
    rules.release(FILE, 4)
    rules.release(FILE, 1)
    assert [each.outcome for each in (writer, reader)] == [Outcome.GRANTED, None]
    rules.release(FILE, 2)
    assert decided == [writer, reader]
    second = rules.ask(FILE, exclusive(2))
    late = rules.ask(FILE, shared(4))
    rules.hurry(late)
    assert (late.outcome, second.outcome) == (Outcome.GRANTED, None)


def test_a_polite_one_goes_on_when_the_one_before_it_gives_up(rules, decided) -> None:
    rules.attempt(FILE, shared(1))
    writer, reader = rules.ask(FILE, exclusive(2)), rules.ask(FILE, shared(3))
    rules.withdraw(writer)
    assert decided == [reader]


def test_two_readers_who_both_want_to_write_are_a_deadlock(rules, decided) -> None:
    rules.attempt(FILE, shared(1))
    rules.attempt(FILE, shared(2))
    first = rules.ask(FILE, exclusive(1))
    with refused(Code.DEADLOCK):
        rules.ask(FILE, exclusive(2))
    rules.release(FILE, 2)
    assert decided == [first]


def test_circles_are_found_over_files_and_over_several_owners(rules) -> None:
    rules.attempt(FILE, exclusive(1, 0, 0))
    rules.attempt(OTHER, exclusive(2, 0, 0))
    rules.attempt(FILE, exclusive(3, 5, 5))
    rules.ask(OTHER, exclusive(1, 0, 0))
    rules.ask(FILE, exclusive(2, 5, 5))
    with refused(Code.DEADLOCK):
        rules.ask(FILE, exclusive(3, 0, 0))
    assert rules.waiters == 2


def test_a_circle_that_another_thread_of_an_owner_closes_is_broken(rules, decided) -> None:
    rules.attempt(FILE, exclusive(1, 0, 0))
    rules.attempt(OTHER, exclusive(3))
    waits_for_1 = rules.ask(FILE, exclusive(2, 0, 0))
    rules.ask(OTHER, exclusive(2))
    first = rules.ask(OTHER, exclusive(1))
    assert rules.waiters == 3
    rules.forget(OTHER, 3)  # one thread of 2 gets it, while the other waits for 1, who waits for it
    assert (waits_for_1.outcome, first.outcome) == (None, Outcome.DEADLOCK)
    assert len(decided) == 2


def test_flock_converts_by_unlocking_so_that_two_converters_do_not_block_each_other(rules, decided) -> None:
    rules.attempt(FLOCK, shared(1))
    rules.attempt(FLOCK, shared(2))
    first = rules.ask(FLOCK, exclusive(1))
    assert first.outcome is None
    second = rules.ask(FLOCK, exclusive(2))
    assert (first.outcome, second.outcome) == (Outcome.GRANTED, None)
    assert not rules.attempt(FLOCK, shared(2))
    rules.release(FLOCK, 1)
    assert decided == [first, second]


def test_a_conversion_of_flock_that_is_refused_loses_what_there_was(rules) -> None:
    rules.attempt(FLOCK, shared(1))
    rules.attempt(FLOCK, shared(2))
    assert not rules.attempt(FLOCK, exclusive(1))
    assert rules.attempt(FLOCK, exclusive(2))


def test_a_downgrade_lets_readers_in(rules, decided) -> None:
    rules.attempt(FILE, exclusive(1))
    reader = rules.ask(FILE, shared(2))
    rules.attempt(FILE, shared(1))
    assert decided == [reader]


def test_locks_and_waiters_are_bounded(rules, decided) -> None:
    assert all(rules.attempt(FILE, exclusive(owner, owner, owner)) for owner in (1, 2, 3))
    assert rules.attempt(FILE, exclusive(4, 10, 20))
    with refused(Code.NO_LOCKS):
        rules.attempt(OTHER, shared(5))
    with refused(Code.NO_LOCKS):
        rules.release(FILE, 4, 15, 15)
    assert rules.first_conflict(FILE, shared(9, 15, 15)) is not None
    waiters = [rules.ask(FILE, shared(owner, 1, 1)) for owner in (5, 6, 7)]
    with refused(Code.NO_LOCKS):
        rules.ask(FILE, shared(8, 1, 1))
    rules.release(FILE, 1)
    assert [each.outcome for each in waiters] == [Outcome.GRANTED, Outcome.CROWDED, Outcome.CROWDED]
    assert decided == waiters


def test_who_is_gone_does_not_wait_any_more(rules, decided) -> None:
    rules.attempt(FILE, exclusive(1))
    waiter = rules.ask(FILE, exclusive(2))
    rules.forget(FILE, 2)
    assert (waiter.outcome, decided) == (Outcome.GONE, [waiter])
    rules.forget(FILE, 1)
    assert not rules
