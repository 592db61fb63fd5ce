"""One owner's ranges: splitting, merging, converting, as fcntl(2) has it."""

import fcntl
import itertools
import random
import subprocess
import sys

import pytest

from cloudverge_mount.ranges import END_MAX, Claim, collide, including, without


def claims(*parts: tuple[int, int, bool]) -> list[Claim]:
    return [Claim(1, start, end, exclusive, 9) for start, end, exclusive in parts]


@pytest.mark.parametrize(
    ("had", "new", "has"),
    [
        ([], (0, END_MAX, True), [(0, END_MAX, True)]),
        ([(0, 4, True)], (5, 9, True), [(0, 9, True)]),
        ([(0, 4, True)], (5, 9, False), [(0, 4, True), (5, 9, False)]),
        ([(0, 9, True)], (3, 5, False), [(0, 2, True), (3, 5, False), (6, 9, True)]),
        ([(0, 2, False), (5, 9, False)], (3, 4, False), [(0, 9, False)]),
        ([(0, 2, False), (5, 9, False)], (1, 7, True), [(0, 0, False), (1, 7, True), (8, 9, False)]),
        ([(0, 2, True), (4, 6, True)], (0, END_MAX, False), [(0, END_MAX, False)]),
        ([(7, 9, True)], (0, 3, True), [(0, 3, True), (7, 9, True)]),
        ([(7, END_MAX, True)], (0, 6, True), [(0, END_MAX, True)]),
    ],
)
def test_a_new_claim_converts_what_it_covers_and_joins_what_it_touches(had, new, has) -> None:
    assert including(claims(*had), claims(new)[0]) == claims(*has)


@pytest.mark.parametrize(
    ("had", "gone", "has"),
    [
        ([(0, 9, True)], (3, 5), [(0, 2, True), (6, 9, True)]),
        ([(0, 9, True)], (0, 0), [(1, 9, True)]),
        ([(0, END_MAX, True)], (5, END_MAX), [(0, 4, True)]),
        ([(0, 2, True), (4, 6, False)], (2, 4), [(0, 1, True), (5, 6, False)]),
        ([(0, 2, True)], (3, 9), [(0, 2, True)]),
        ([(0, 2, True)], (0, END_MAX), []),
    ],
)
def test_what_is_given_up_leaves_what_is_around_it(had, gone, has) -> None:
    assert without(claims(*had), *gone) == claims(*has)


def test_only_different_owners_of_whom_one_excludes_collide() -> None:
    shared, exclusive = Claim(1, 0, 5, False, 9), Claim(1, 0, 5, True, 9)
    assert not collide(shared, shared._replace(owner=2))
    assert collide(shared, exclusive._replace(owner=2))
    assert collide(exclusive, shared._replace(owner=2))
    assert not collide(exclusive, exclusive)
    assert not collide(exclusive, Claim(2, 6, 9, True, 9))
    assert collide(exclusive, Claim(2, 5, 5, True, 9))


ASK = """
import fcntl, sys

def is_free(file, kind, byte):
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB, 1, byte)
    except BlockingIOError:
        return False
    fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)
    return True

with open(sys.argv[1], "r+b") as file:
    for byte in range(8):
        free = is_free(file, fcntl.LOCK_EX, byte), is_free(file, fcntl.LOCK_SH, byte)
        print({(True, True): "-", (False, True): "s", (False, False): "x"}[free], end="")
"""


def test_a_long_history_of_one_owner_leaves_what_the_kernel_says_of_a_local_file(tmp_path) -> None:
    choices = random.Random(5)
    mine: list[Claim] = []
    with open(tmp_path / "f", "w+b") as file:
        for _ in range(60):
            start = choices.randrange(8)
            length = choices.randrange(1, 9 - start)
            kind = choices.choice((fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN))
            fcntl.lockf(file, kind, length, start)
            if kind == fcntl.LOCK_UN:
                mine = without(mine, start, start + length - 1)
            else:
                mine = including(mine, Claim(1, start, start + length - 1, kind == fcntl.LOCK_EX, 9))
        asked = subprocess.run([sys.executable, "-c", ASK, file.name], capture_output=True, check=True)
    assert asked.stdout.decode() == "".join(
        next(("x" if claim.exclusive else "s" for claim in mine if claim.start <= byte <= claim.end), "-")
        for byte in range(8)
    )
    assert all(before.end < after.start for before, after in itertools.pairwise(mine))
