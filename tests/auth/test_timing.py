"""How long a refused sign-in takes does not tell whether there is such an account.

Interleaved pairs, so that whatever else the machine does falls on both kinds alike. The difference between the
kinds' medians is compared with those between random halves of one kind, measured in the same run: a difference
within that is noise. A shortcut for absent accounts is put in to see that it would be noticed.
"""

import random
import statistics
import time

import argon2
import pytest

from cloudverge_auth import loginrate
from cloudverge_auth.loginrate import Rate

pytestmark = pytest.mark.anyio

SPLITS = 400
UNLIMITED = Rate(10**9, 1e-6)
WRONG = "wrong password"
SOME_MILLISECONDS = argon2.PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1)  # a hash


def noise_of(times: list[float], rng: random.Random) -> float:
    """The difference of medians that one of 200 random halvings of one kind exceeds."""
    differences = []
    for _ in range(SPLITS):
        shuffled = rng.sample(times, len(times))
        half = len(times) // 2
        differences.append(abs(statistics.median(shuffled[:half]) - statistics.median(shuffled[half:])))
    return sorted(differences)[-SPLITS // 200]


def tells_apart(one: list[float], other: list[float]) -> bool:
    """Whether the medians differ by more than the noise within either kind."""
    rng = random.Random(1)
    difference = abs(statistics.median(one) - statistics.median(other))
    return difference > max(noise_of(one, rng), noise_of(other, rng))


def test_the_measure_notices_a_small_shift_and_no_noise():
    rng = random.Random(2)
    one, other = ([rng.lognormvariate(0, 0.3) for _ in range(1000)] for _ in range(2))
    assert not tells_apart(one, other)
    assert tells_apart(one, [value + 0.1 for value in other])


@pytest.fixture
async def timed(auth, monkeypatch):
    """Measures refused sign-ins of two names, in turn and in both orders; times by name."""
    passwords = auth.services.accounts._passwords
    monkeypatch.setattr(passwords, "_hasher", SOME_MILLISECONDS)
    await passwords.prepare()
    for limit in ("PER_PAIR", "PER_ADDRESS", "PER_USER"):
        monkeypatch.setattr(loginrate, limit, UNLIMITED)
    await auth.sign_up("existing")
    await auth.sign_up("disabled")
    await auth.sql("update users set disabled_at = now() where name = 'disabled'")

    async def attempt(name):
        start = time.perf_counter()
        answer = await auth.post("/v1/login", user=name, password=WRONG, device="x")
        taken_s = time.perf_counter() - start
        assert answer.status_code == 401
        return taken_s

    async def measure(names, pairs):
        for name in names * 20:
            await attempt(name)  # connections, prepared statements, rows of the rate
        times = {name: [] for name in names}
        for number in range(pairs):
            for name in names if number % 2 else reversed(names):
                times[name].append(await attempt(name))
        return times.values()

    return measure


@pytest.mark.parametrize("kind", ["absentee", "disabled"])
@pytest.mark.parametrize(
    "pairs", [100, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(600)])]
)
async def test_the_time_of_a_refused_sign_in_does_not_tell_whether_the_account_exists(timed, kind, pairs):
    assert not tells_apart(*await timed(("existing", kind), pairs))


async def test_a_shortcut_for_absent_accounts_would_be_noticed(auth, timed, monkeypatch):
    passwords = auth.services.accounts._passwords
    check = passwords.check

    async def shortcut(known, password):
        return known is not None and await check(known, password)

    monkeypatch.setattr(passwords, "check", shortcut)
    assert tells_apart(*await timed(("existing", "absentee"), 100))
