"""What is loaded before it is asked for: which folders, in which order, and when not."""

import sqlite3
import stat

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_mount.ahead import LEFT_MAX, Ahead, left_out
from cloudverge_protocol.errors import Code, Unavailable
from cloudverge_protocol.inodes import Dentry
from cloudverge_protocol.messages import Folder, TreeReply


def reply(**folders: str) -> TreeReply:
    """Folders by name; each lists sub-folders (a digit in front of what follows: a number) and files (letters)."""
    return TreeReply(
        1,
        tuple(
            Folder(int(name[1:]), 0, True, tuple(entry(int(name[1:]), word) for word in words.split()))
            for name, words in folders.items()
        ),
        (), (), (), (),
    )  # fmt: skip


def entry(parent: int, word: str) -> Dentry:
    folder = word.isdigit()
    ino = int(word) if folder else 0
    return Dentry(parent, word.encode(), ino, stat.S_IFDIR if folder else stat.S_IFREG, 1000 + ino)


def test_what_is_left_out_comes_in_the_order_of_a_walk():
    found = reply(f1="2 a 3 4", f2="5 6", f3="b", f6="7")
    assert left_out([1], found) == [5, 7, 4]


def test_further_folders_of_the_request_that_did_not_fit_are_left_too():
    assert left_out([1, 2, 3], reply(f1="a", f2="4")) == [4, 3]


def test_a_reply_that_names_a_folder_within_itself_ends():
    assert left_out([1], reply(f1="2", f2="1")) == [1]


@given(st.dictionaries(st.integers(2, 12), st.lists(st.integers(2, 12), unique=True), max_size=8))
def test_nothing_is_left_twice_but_for_a_reply_that_names_it_twice(tree):
    found = reply(f1=" ".join(map(str, tree)), **{f"f{k}": " ".join(map(str, v)) for k, v in tree.items()})
    assert set(left_out([1], found)).isdisjoint(set(tree) - {c for below in tree.values() for c in below})


def test_one_request_takes_what_a_walk_comes_to_next_as_far_as_the_budget_goes():
    entries = {5: 10, 6: None, 7: 10, 8: 10}
    ahead = Ahead(entries.get)
    ahead.took([1], reply(f1="4 5 6 7 8"))
    assert ahead.take(99, 100) == []
    assert ahead.take(4, 20) == [5, 7]
    assert ahead.take(8, 20) == []


def test_what_is_remembered_is_bounded():
    ahead = Ahead({}.get)
    for start in range(2, 5):
        folders = " ".join(str(start * 10_000 + n) for n in range(3000))
        ahead.took([1], reply(f1=folders))
    assert len(ahead._left) == LEFT_MAX


@pytest.mark.trio
async def test_one_reply_is_loaded_ahead_for_each_that_was_of_use(autojump_clock):
    loaded: list[int] = []
    ahead = Ahead({2: 1, 3: 1, 4: 1}.get)

    async def load(ino: int) -> None:
        loaded.append(ino)
        await trio.sleep(1)
        ahead.take(ino, 0)
        ahead.took([ino], reply(**{f"f{ino}": "a"}))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ahead.run, load)
        ahead.took([1], reply(f1="2 3 4"))
        await trio.sleep(10)
        assert loaded == [], "nobody has opened anything"
        ahead.opened(77)
        await trio.sleep(10)
        assert loaded == []
        ahead.opened(1)
        ahead.opened(1)
        await trio.sleep(0.5)
        started = trio.current_time()
        await ahead.arrived()
        assert trio.current_time() == started + 0.5
        await trio.sleep(10)
        assert loaded == [2], "one reply ahead, not more"
        ahead.opened(2)
        await trio.sleep(10)
        assert loaded == [2, 3]
        nursery.cancel_scope.cancel()


@pytest.mark.trio
@pytest.mark.parametrize(
    "error", [Unavailable(Code.UNREACHABLE, "no line"), sqlite3.OperationalError("disk")]
)
async def test_a_failure_ahead_of_time_is_nobodys_failure(autojump_clock, error):
    tries: list[int] = []
    ahead = Ahead({2: 1}.get)

    async def load(ino: int) -> None:
        tries.append(ino)
        raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ahead.run, load)
        for _ in range(2):
            ahead.took([1], reply(f1="2"))
            ahead.opened(1)
            await trio.sleep(1)
        assert tries == [2, 2]
        nursery.cancel_scope.cancel()
