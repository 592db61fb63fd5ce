"""The bounded set of open files."""

import errno
import os
import threading
from pathlib import Path

import pytest

from cloudverge_chunkserver.descriptors import Descriptors


@pytest.fixture
def opener(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    return lambda: os.open(path, os.O_RDONLY)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_no_more_than_the_limit_stay_open_while_unused(opener):
    files: Descriptors[int] = Descriptors(3)
    for key in range(10):
        files.release(files.acquire(key, opener))
    assert len(files) == 3
    files.close()


def test_one_in_use_is_closed_only_after_its_last_user(opener):
    files: Descriptors[int] = Descriptors(1)
    used = files.acquire(0, opener)
    again = files.acquire(0, opener)
    files.release(files.acquire(1, opener))
    assert is_open(used.fd)
    files.drop(0)
    files.release(used)
    assert is_open(again.fd)
    files.release(again)
    assert not is_open(again.fd)
    files.close()


def test_when_the_system_has_none_left_unused_ones_are_given_up(opener):
    files: Descriptors[int] = Descriptors(10)
    files.release(files.acquire(0, opener))
    refusals = [1]

    def scarce() -> int:
        if refusals:
            refusals.pop()
            raise OSError(errno.EMFILE, "too many")
        return opener()

    files.release(files.acquire(1, scarce))
    assert len(files) == 1
    files.close()


def test_a_file_that_cannot_be_opened_leaves_nothing_behind():
    files: Descriptors[int] = Descriptors(10)

    def absent() -> int:
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        files.acquire(0, absent)
    assert len(files) == 0


def test_threads_may_use_and_drop_at_once(opener):
    files: Descriptors[int] = Descriptors(2)
    failures = []

    def work(seed: int) -> None:
        for turn in range(300):
            held = files.acquire((seed + turn) % 5, opener)
            if not is_open(held.fd):
                failures.append(turn)
            files.release(held)
            if turn % 7 == 0:
                files.drop((seed * turn) % 5)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    files.close()
