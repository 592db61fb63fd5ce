"""Everybody asks for everything: random trees, grants and requests, held against a small model of who may do what.

A seeded driver and not Hypothesis: 100,000 requests on a real database are what counts here, and a failure is found
again by its seed; shrinking would multiply the time and hardly shorten a history that a leak needs.

What is checked of every request stands in ``tests.fixtures.rightsplay``; here is who plays, and how often.
"""

import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.app import prepare_database
from cloudverge_protocol import messages as m
from cloudverge_protocol import operations as o
from cloudverge_protocol.messages import FrameType as F
from tests.fixtures.rightsparties import Party
from tests.fixtures.rightsplay import Play
from tests.fixtures.rightsreplica import follow
from tests.fixtures.rightsstage import FIRST_INODES, Stage

pytestmark = pytest.mark.anyio

ROUND = 500  # requests
NEEDED = ("operations done", "operations outside", "bytes in tickets", "feeds told", "followed", "refused")


@pytest.fixture
async def stage(database: str, anyio_backend: str) -> AsyncIterator[Stage]:
    await prepare_database(database)
    made = Stage(database)
    await made.open()
    yield made
    await made.close()


async def test_nobody_reaches_more_or_less_than_the_model_says(stage):
    await play(stage, 1_500, int(os.environ.get("CLOUDVERGE_SEED", "1")))


@pytest.mark.soak
@pytest.mark.timeout(6 * 3600)
async def test_the_same_in_a_hundred_thousand_requests(stage, capsys):
    seed = int(os.environ.get("CLOUDVERGE_SEED", "1000"))
    counts = await play(stage, int(os.environ.get("CLOUDVERGE_REQUESTS", "100000")), seed)
    with capsys.disabled():
        print(f"\n{counts['requests']} requests:", dict(counts))


async def play(stage: Stage, requests: int, seed: int) -> Counter[str]:
    """Rounds until so many requests were made."""
    counts: Counter[str] = Counter()
    answers: dict[str, tuple[int, str]] = {}
    while counts["requests"] < requests:
        one = Play(stage, seed, answers)
        try:
            await play_round(one)
        except BaseException as error:
            error.add_note(f"seed {seed}, after {one.counts['requests']} requests")
            raise
        counts += one.counts
        seed += 1
    for needed in NEEDED:
        assert counts[needed] > requests / 200, (needed, counts)
    return counts


async def play_round(play: Play) -> None:
    await play.stage.clear()
    await set_up(play)
    kinds = (
        *(play.batch,) * 12, *(play.tree,) * 3, *(play.load,) * 3, *(play.tickets,) * 4, *(play.feed,) * 3,
        play.renew, play.renew, play.close, play.close_incarnation, play.ids,
        play.allocate, play.locate, play.seal, play.damage,
    )  # fmt: skip
    writers = [party for party in play.parties if party.identity.may_write and party.space == 1]
    party = play.parties[0]
    while play.counts["requests"] < ROUND:
        if play.rng.random() < 0.4:  # otherwise another one of the same, or all would go into leases
            party = play.rng.choice([*play.parties, *writers])
        if time.monotonic() > play.stage.beat_at_s + 2:
            await play.stage.beat()
            play.rows_changed()
        draw = play.rng.random()
        if draw < 0.01:
            await revoke(play)
        elif draw < 0.06:
            await follow(play, play.rng.choice([p for p in play.parties if p.confined]))
        elif draw < 0.10:
            other = 3 - party.space if play.rng.random() < 0.1 else 0
            await play.open(party, play.rng.choice([0, 0, 1]), other)
        else:
            await play.rng.choice(kinds)(party)


async def set_up(play: Play) -> None:
    """A tree by the owner of space 1, grants of its folders, and a stranger with a space of his own."""
    rng = play.rng
    owner, stranger = party_of(play, 1, 1, "owner"), party_of(play, 2, 9, "owner")
    play.parties = [owner, stranger]
    await play.stage.beat()
    for party in (owner, stranger):
        while not await play.open(party):
            pass
        first = FIRST_INODES[party.space]
        await play.stage.sql("update meta.spaces set next_id = $2 where space = $1", party.space, first)
        play.rows_changed()
        while not await play.open(party):
            pass
        folders = [1]
        for depth in range(12):
            session = party.sessions[-1]
            ino, dentry = session.take_id(), session.take_id()
            parent = rng.choice(folders)
            await settled(
                play, party, o.Create(parent, play.ops.text("n"), ino, dentry, 0o40755, 5, 5, depth)
            )
            folders.append(ino)
        while (
            not play.standing.chunks or play.standing.chunks[max(play.standing.chunks)].space != party.space
        ):
            await play.allocate(party)
    roots = rng.sample(sorted(set(play.standing.trees[1].kinds) - {1}), 5)
    rights = (
        (2, "editor", 0, 1), (3, "reader", 0, 1), (4, "editor", 11, roots[0]), (4, "reader", 12, roots[0]),
        (5, "editor", 13, roots[1]), (6, "reader", 14, roots[2]), (5, "editor", 15, roots[3]),
        (1, "editor", 16, roots[4]),
    )  # fmt: skip
    play.parties += [party_of(play, 1, user, role, grant, root) for user, role, grant, root in rights]
    tree = play.standing.trees[1]
    for root in roots:
        play.standing.seen[root] = [tree.view(tree.inside(root))] * (len(play.standing.log[1]) + 1)


async def settled(play: Play, party: Party, op: o.Operation) -> None:
    """Do it, whatever tickets and sessions are drawn."""
    done = len(play.standing.log[party.space])
    while len(play.standing.log[party.space]) == done:
        await play.batch(party, [op])


def party_of(play: Play, space: int, user: int, role: Any, grant: int = 0, root: int = 1) -> Party:
    """Somebody with a fresh ticket."""
    who = Identity(
        str(user), f"user{user}", user, "somewhere", space, role, play.stage.epochs[space],  # type: ignore[arg-type]
        grant=grant, root=root, owner=1,  # type: ignore[arg-type]
    )  # fmt: skip
    return Party(who, (play.rng.randbytes(16), play.rng.randbytes(16)))


async def revoke(play: Play) -> None:
    """Some right to space 1 ends: who has another one comes back with a fresh ticket, all older ones are refused."""
    await play.stage.revoke(1)
    for party in play.parties:
        if party.space == 1:
            old = play.stage.sign(party.identity)
            party.identity = replace(party.identity, membership_epoch=play.stage.epochs[1])
            await play.ask_with(old, party, F.TREE, m.Tree(1, 1))
    await play.stage.beat()
    play.rows_changed()
