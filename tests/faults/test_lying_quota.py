"""A client that ignores its quota: of a space and of its owner, in bytes and in files, however it goes about it.

What is committed never passes the quota. What lies on disks passes it by two chunks at most, whatever is appended.
"""

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from cloudverge_protocol import messages as m
from cloudverge_protocol.checksum import piece_crcs
from cloudverge_protocol.errors import Code
from cloudverge_protocol.ids import CHUNK_BYTES
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.messages import FrameType
from cloudverge_protocol.operations import CloneRange, Truncate
from tests.fixtures.accounts import Person, settle, sign_up
from tests.fixtures.cluster import Cluster
from tests.fixtures.framecaller import calling
from tests.fixtures.liars import MINE_BYTES, Liar, guest_of, host_of

MIB = 1 << 20
QUOTA = MIB
BODY = bytes(4 * MIB)


class Elsewhere(Person):
    """The same user, on another space of his."""

    space = 0

    def post(self, path, body):
        return super().post(path, body | {"space": self.space} if path == "/v1/tickets" else body)


@pytest.fixture
def make_liar(cluster: Cluster) -> Iterator[Callable[..., Liar]]:
    made: list[Liar] = []

    def make(person: Person | None = None) -> Liar:
        made.append(Liar(person or sign_up(cluster, "mallory"), settle(cluster, "bob").ids))
        return made[-1]

    yield make
    for each in made:
        each.close()


def limit(cluster: Cluster, liar: Liar, *, renew: bool = True, **quotas: int) -> None:
    """Set the quota of the liar's space, as an administrator would; ``renew``: he takes notice."""
    for name, value in quotas.items():
        table, column, key = {
            "space_bytes": ("auth.spaces", "quota_bytes", liar.space),
            "space_inodes": ("auth.spaces", "quota_inodes", liar.space),
            "owner_bytes": ("auth.users", "quota_bytes", liar.person.ids.user),
            "owner_inodes": ("auth.users", "quota_inodes", liar.person.ids.user),
        }[name]
        cluster.sql(f"update {table} set {column} = $1 where id = $2", value, key)
    notice(liar, renew=renew)


def notice(liar: Liar, *, renew: bool = True) -> None:
    """A ticket that tells of the quota."""
    assert isinstance(liar.meta.hello(liar.person.identity()), m.HelloReply)
    if renew:
        liar.must(FrameType.SESSION_RENEW, m.SessionRef(*liar.mine))


def other_space(liar: Liar, name: str) -> Elsewhere:
    """Another space of the same owner."""
    person = liar.person
    made = person.post("/v1/spaces", {"name": name})
    assert made.status_code == 201, made.text
    other = Elsewhere(person.cluster, person.name, person.access_token, person.refresh_token, person.ids)
    other.space = made.json()["id"]
    return other


def fill(grant: m.ChunkGrant) -> int:
    """Append whatever the chunk's servers take, the limit of its ticket or not; how much that was."""
    first, *others = grant.places
    offset, size = 0, len(BODY)
    with calling((first.host, first.port), grant.ticket) as server:
        while size:
            body = BODY[:size]
            request = m.Append(
                grant.ticket, grant.chunk, grant.epoch, offset, tuple(piece_crcs(body, offset)), False, tuple(others)
            )  # fmt: skip
            reply = server.ask(FrameType.APPEND, request, body)
            if isinstance(reply, m.AppendReply):
                offset += size
            else:
                assert reply.code == Code.CHUNK_FULL
                size //= 4
    return offset


def everything(*liars: Liar) -> int:
    """Allocate and append in all these spaces until nobody gives any more; how many bytes were taken."""
    taken, left = 0, list(liars)
    while left:
        for liar in tuple(left):
            reply = liar.ask(FrameType.CHUNK_ALLOCATE, m.ChunkAllocate(*liar.mine, 1))
            if isinstance(reply, m.ErrorReply):
                assert reply.code == Code.QUOTA
                left.remove(liar)
            else:
                taken += fill(reply.grants[0])
    return taken


def clones(liar: Liar, count: int) -> m.Batch:
    """The own file's bytes, again and again behind each other."""
    return liar.batch(
        *(CloneRange(liar.file, 0, MINE_BYTES, liar.file, (n + 1) * MINE_BYTES, 1) for n in range(count))
    )


def used(cluster: Cluster, *liars: Liar) -> tuple[int, int]:
    """Bytes and inodes that are committed."""
    (row,) = cluster.sql(
        "select sum(used_bytes)::bigint as b, sum(used_inodes)::bigint as i from meta.spaces where space = any($1)",
        [liar.space for liar in liars],
    )
    return row["b"], row["i"]


@pytest.mark.parametrize("whose", ["space_bytes", "owner_bytes"])
def test_bytes_appended_without_end_stop_two_chunks_beyond_the_quota(cluster, make_liar, whose):
    liar = make_liar()
    limit(cluster, liar, **{whose: QUOTA})
    # what he had before (three chunks allocated with their full limits) counts as if it were full
    assert everything(liar) == 0
    liar.must(FrameType.SESSION_CLOSE, m.SessionRef(*liar.mine))
    liar.opened = liar._session(b"q" * 16)
    taken = everything(liar)
    assert 2 * CHUNK_BYTES <= taken <= QUOTA + 2 * CHUNK_BYTES


def test_an_owners_spaces_together_take_two_chunks_beyond_his_quota_and_no_more(cluster, make_liar):
    liar = make_liar()
    others = [make_liar(other_space(liar, f"team {n}")) for n in range(2)]
    limit(cluster, liar, owner_bytes=QUOTA)
    for each in (liar, *others):
        notice(each)
        each.must(FrameType.SESSION_CLOSE, m.SessionRef(*each.mine))
        each.opened = each._session(b"q" * 16)
    assert everything(liar, *others) <= QUOTA + 2 * CHUNK_BYTES


@pytest.mark.parametrize("whose", ["space_bytes", "owner_bytes"])
def test_bytes_are_committed_up_to_the_quota_whatever_the_operation(cluster, make_liar, whose):
    liar = make_liar()
    limit(cluster, liar, **{whose: 10 * MINE_BYTES})
    reply = liar.must(FrameType.BATCH, clones(liar, 50))
    assert (reply.refused_code, len(reply.seqs), reply.used_bytes) == (Code.QUOTA, 9, 10 * MINE_BYTES)
    one = liar.write(Extent(20 * MINE_BYTES, 1, liar.chunk.chunk, 0))
    over = liar.write(Extent(0, MINE_BYTES, liar.chunk.chunk, 0), size=20 * MINE_BYTES)
    more = liar.batch(over, Truncate(liar.file, 21 * MINE_BYTES, 1), one)
    reply = liar.must(FrameType.BATCH, more)
    assert (reply.refused_code, len(reply.seqs)) == (Code.QUOTA, 2)  # overwriting and holes cost nothing
    assert used(cluster, liar)[0] == 10 * MINE_BYTES


@pytest.mark.parametrize("whose", ["space_inodes", "owner_inodes"])
def test_files_are_made_up_to_the_quota(cluster, make_liar, whose):
    liar = make_liar()
    limit(cluster, liar, **{whose: 100})
    for _ in range(3):
        reply = liar.must(FrameType.BATCH, liar.batch(*(liar.make(b"%d" % n) for n in range(300))))
        assert reply.refused_code in (Code.QUOTA, Code.EXISTS)
    reply = liar.must(FrameType.BATCH, liar.batch(liar.make(b"one more")))
    assert reply.refused_code == Code.QUOTA
    assert used(cluster, liar)[1] == 100


def test_a_quota_holds_for_a_client_that_never_asks_for_it(cluster, make_liar):
    liar = make_liar()
    liar.must(FrameType.BATCH, clones(liar, 1))
    limit(cluster, liar, renew=False, space_bytes=10 * MINE_BYTES, space_inodes=10)
    reply = liar.must(FrameType.BATCH, clones(liar, 50))
    assert (reply.refused_code, reply.used_bytes) == (Code.QUOTA, 10 * MINE_BYTES)
    reply = liar.must(FrameType.BATCH, liar.batch(*(liar.make(b"%d" % n) for n in range(50))))
    assert (reply.refused_code, reply.used_inodes) == (Code.QUOTA, 10)
    refused = liar.ask(FrameType.CHUNK_ALLOCATE, m.ChunkAllocate(*liar.mine))
    assert refused.code == Code.QUOTA


def test_an_owner_gains_nothing_by_going_from_one_of_his_spaces_to_another(cluster, make_liar):
    liar = make_liar()
    other = make_liar(other_space(liar, "team"))
    quota = 40 * MINE_BYTES
    limit(cluster, liar, owner_bytes=quota, owner_inodes=30)
    for each in (liar, other):
        notice(each)
        each.must(FrameType.BATCH, clones(each, 1))  # now the metaserver knows each of the spaces by heart
    for each in itertools.islice(itertools.cycle((liar, other)), 10):
        each.must(FrameType.BATCH, clones(each, 60))
        each.must(FrameType.BATCH, each.batch(*(each.make(b"%d" % each.new()) for n in range(40))))
    bytes_used, inodes_used = used(cluster, liar, other)
    assert bytes_used <= quota
    assert inodes_used <= 30


def test_an_owner_gains_nothing_by_using_his_spaces_at_the_same_moment(cluster, make_liar):
    liar = make_liar()
    liars = [liar, *(make_liar(other_space(liar, f"team {n}")) for n in range(3))]
    quota = 100 * MINE_BYTES
    limit(cluster, liar, owner_bytes=quota)
    for each in liars:
        notice(each)
    start = threading.Barrier(len(liars))

    def spend(each: Liar) -> None:
        batch = clones(each, 90)
        start.wait()
        each.ask(FrameType.BATCH, batch)

    for _ in range(3):
        threads = [threading.Thread(target=spend, args=(each,)) for each in liars]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert used(cluster, *liars)[0] <= quota


def test_what_a_guest_writes_counts_for_the_one_who_gave(cluster):
    host, shared = host_of(cluster)
    liar = Liar(guest_of(host, shared), host.ids)
    cluster.sql("update auth.users set quota_bytes = $1 where id = $2", 10 * MINE_BYTES, host.ids.user)
    notice(liar, renew=False)
    try:
        reply = liar.must(FrameType.BATCH, clones(liar, 50))
        assert reply.refused_code == Code.QUOTA
        assert used(cluster, liar)[0] <= 10 * MINE_BYTES
        assert everything(liar) <= 2 * CHUNK_BYTES
    finally:
        liar.close()
