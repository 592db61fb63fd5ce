"""Hashing off the loop, a bounded number at a time; the arithmetic of the rate limit."""

import asyncio
import threading

import argon2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_auth.loginrate import Rate, login_charges, wait_of
from cloudverge_auth.passwords import MAX_WAITING, Passwords
from cloudverge_protocol.errors import Code, Unavailable

pytestmark = pytest.mark.anyio


class SlowHasher(argon2.PasswordHasher):
    """Counts how many hashes run at once."""

    def __init__(self):
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.running = self.most = 0
        self.lock, self.go = threading.Lock(), threading.Event()

    def hash(self, password, **options):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.go.wait(10)
        with self.lock:
            self.running -= 1
        return super().hash(password, **options)


@pytest.fixture
def hasher():
    return SlowHasher()


@pytest.fixture
def passwords(hasher):
    made = Passwords(2, hasher)
    yield made
    hasher.go.set()
    made.close()


async def test_the_default_is_argon2id_with_the_libraries_parameters():
    assert Passwords()._hasher.type is argon2.Type.ID
    assert Passwords()._hasher.memory_cost >= 64 * 1024


async def test_hashing_leaves_the_loop_free_and_runs_two_at_a_time(passwords, hasher):
    hashes = [asyncio.ensure_future(passwords.hash("some password")) for _ in range(6)]
    await asyncio.sleep(0.05)
    assert hasher.most == 2
    hasher.go.set()
    assert len(set(await asyncio.gather(*hashes))) == 6
    assert hasher.most == 2


async def test_who_would_wait_too_long_is_told_to_come_back(passwords, hasher):
    waiting = [asyncio.ensure_future(passwords.hash("some password")) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as caught:
        await passwords.hash("one more")
    assert caught.value.code == Code.UNAVAILABLE
    assert caught.value.retry_after_s > 0
    hasher.go.set()
    await asyncio.gather(*waiting)
    assert await passwords.hash("one more")


async def test_only_the_right_password_of_a_known_account_is_right(passwords, hasher):
    hasher.go.set()
    await passwords.prepare()
    known = await passwords.hash("the password")
    assert await passwords.check(known, "the password")
    assert not await passwords.check(known, "another")
    assert not await passwords.check(None, "the password")
    assert not await passwords.check("not a hash", "the password")
    assert not passwords.is_outdated(known)


def test_a_fresh_subject_may_try_burst_times_at_once():
    rate, debt = Rate(burst=3, interval_s=10), 0.0
    for _ in range(3):
        assert wait_of(rate, debt) == 0
        debt += 10
    assert wait_of(rate, debt) == 10


@given(st.integers(1, 100), st.floats(0.1, 100), st.floats(0, 1e5))
def test_waiting_as_long_as_told_is_enough_and_less_is_not(burst, interval_s, debt_s):
    rate = Rate(burst, interval_s)
    wait_s = wait_of(rate, debt_s)
    assert wait_of(rate, max(0.0, debt_s - wait_s)) < 1e-6
    if wait_s > 0.01:
        assert wait_of(rate, debt_s - wait_s + 0.01) > 0


def test_subjects_show_neither_name_nor_address():
    charges = login_charges("ann", "10.0.0.1")
    assert len({charge.subject for charge in charges}) == 3
    assert not any("ann" in charge.subject or "10.0" in charge.subject for charge in charges)
