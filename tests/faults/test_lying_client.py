"""A properly signed-in user whose client lies: each lie is refused with its code, and nothing changes for anybody.

The lies stand in ``tests/fixtures/lies``, one row each. They are told by the owner of a space of his own, who names
another user's things, and by somebody who was given a folder in another's space, who names the rest of it.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from cloudverge_protocol import messages as m
from cloudverge_protocol.errors import Code
from cloudverge_protocol.ids import CHUNK_BYTES, ChunkId, ServerId, SpaceId
from cloudverge_protocol.messages import FrameType, Message
from tests.fixtures.accounts import Person, settle
from tests.fixtures.cluster import Cluster, wait_until
from tests.fixtures.framecaller import FrameCaller, calling
from tests.fixtures.liars import Liar, Trap, append, guest_of, host_of, liar_as_guest, liar_at_home, trap
from tests.fixtures.lies import ABSENT, APPENDS, HUGE, LIES
from tests.fixtures.spacestate import SpaceStates

ROLES = ("at home", "guest")


class Reader:
    """Reads a person's file the proper way, over one connection."""

    def __init__(self, person: Person) -> None:
        assert person.grant is not None
        self._person, self._place = person, person.grant.places[0]
        self.close = lambda: None
        self._caller: FrameCaller | None = None

    def content(self) -> bytes:
        """What the file holds."""
        person, length = self._person, len(self._person.name)
        if self._caller is None:
            self._caller = FrameCaller((self._place.host, self._place.port))
            self.close = self._caller.close
        reply, body = self._ask(length)
        if isinstance(reply, m.ErrorReply):  # the ticket has run out
            self._ticket = person.read_ticket(self._place.server)
            self._caller.hello(self._ticket)
            reply, body = self._ask(length)
        assert isinstance(reply, m.ReadReply), reply
        return body[:length]

    _ticket = ""

    def _ask(self, length: int) -> tuple[Message, bytes]:
        assert self._caller is not None
        if not self._ticket:
            self._ticket = self._person.read_ticket(self._place.server)
            self._caller.hello(self._ticket)
        return self._caller.call(FrameType.READ, m.Read(self._ticket, self._person.ids.chunk, 0, length))


class Scene:
    """The people: ``bob`` has a space of his own, ``ann`` has given a folder away, and the liars name their things."""

    def __init__(self, cluster: Cluster, stack: contextlib.ExitStack) -> None:
        self.cluster = cluster
        self.bob = settle(cluster, "bob")
        self.ann, shared = host_of(cluster)
        self.liars = {
            "at home": liar_at_home(cluster, self.bob),
            "guest": liar_as_guest(self.ann, shared),
        }
        self.honest = {"at home": self.bob, "guest": self.ann}
        self.readers = {role: Reader(person) for role, person in self.honest.items()}
        self.states = SpaceStates(cluster.report["dsn"])
        stack.callback(self.states.close)
        for each in (*self.liars.values(), *self.readers.values()):
            stack.callback(lambda each=each: each.close())

    def assert_honest(self, role: str) -> None:
        """The file of the one who does not lie reads right."""
        assert self.readers[role].content() == self.honest[role].name.encode()


@pytest.fixture(scope="module")
def scene(lasting_cluster: Cluster) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        yield Scene(lasting_cluster, stack)


@pytest.fixture
def listener() -> Iterator[Trap]:
    yield from trap()


def verdict(reply: Message) -> int:
    """The code of a refusal, wherever it stands; 0 if there is none."""
    if isinstance(reply, m.ErrorReply):
        return reply.code
    if isinstance(reply, m.BatchReply):
        return reply.refused_code
    return reply.code if isinstance(reply, m.AppendReply) else 0


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", LIES)
def test_a_lie_to_the_metaserver_is_refused_and_changes_nothing(cluster, scene, role, name):
    lie, liar, honest = LIES[name], scene.liars[role], scene.honest[role]
    said = lie.says(liar)
    unchanged = {honest.ids.space} if lie.own else {liar.space, honest.ids.space}
    if lie.own and role == "guest":
        unchanged = set()  # it is one and the same space
    before = scene.states.of(unchanged)
    reply = liar.ask(lie.kind, said)
    assert verdict(reply) == (lie.guest if role == "guest" and lie.guest is not None else lie.code), reply
    assert scene.states.of(unchanged) == before
    scene.assert_honest(role)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", APPENDS)
def test_a_lie_to_a_chunkserver_is_refused_and_changes_nothing(cluster, scene, role, name):
    lie, liar = APPENDS[name], scene.liars[role]
    place, message, before = lie.place(liar), lie.message(liar), liar.stored()
    with calling((place.host, place.port), liar.read_ticket(place.server)) as caller:
        reply = caller.ask(FrameType.APPEND, message, lie.body)
    assert verdict(reply) == lie.code, reply
    assert liar.stored() == before
    scene.assert_honest(role)


@pytest.mark.parametrize("role", ROLES)
def test_different_bytes_in_the_same_place_close_the_chunk_and_leave_what_was_there(cluster, scene, role):
    liar = scene.liars[role]
    grant = liar.allocate()
    append(grant, b"true" * 100)
    with calling((grant.places[0].host, grant.places[0].port), grant.ticket) as caller:
        lie = m.Append(grant.ticket, grant.chunk, grant.epoch, 0, liar.crcs(b"false"), True, grant.places[1:])
        assert verdict(caller.ask(FrameType.APPEND, lie, b"false")) == Code.CONFLICT
        more = m.Append(grant.ticket, grant.chunk, grant.epoch, 400, liar.crcs(b"x", 400), True)
        assert verdict(caller.ask(FrameType.APPEND, more, b"x")) == Code.SEALED
    assert [*liar.stored(grant).values()] == [b"true" * 100] * 2
    scene.assert_honest(role)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("named", ["a server of the chunk", "a server that is not the chunk's", "no server"])
def test_an_append_is_never_sent_on_to_where_the_client_says(cluster, scene, listener, role, named):
    liar = scene.liars[role]
    grant, own = liar.chunk, {place.server for place in liar.chunk.places}
    servers = {row["server"] for row in cluster.sql("select server from meta.servers")}
    server = {
        "a server of the chunk": grant.places[1].server,
        "a server that is not the chunk's": min(servers - own),
        "no server": ABSENT,
    }[named]
    onward = m.Place(ServerId(server), "127.0.0.1", listener.port)
    before = liar.stored()
    with calling((grant.places[0].host, grant.places[0].port), grant.ticket) as caller:
        for chain in ((onward,), (grant.places[1], onward), (onward,) * 9):
            lie = m.Append(grant.ticket, grant.chunk, grant.epoch, 5000, liar.crcs(b"x", 5000), True, chain)
            assert verdict(caller.ask(FrameType.APPEND, lie, b"x")) == Code.FORBIDDEN
    assert listener.caught == []
    assert liar.stored() == before


@pytest.mark.parametrize("role", ROLES)
def test_tickets_are_given_for_ones_own_open_chunks_only(cluster, scene, role):
    liar, victim = scene.liars[role], scene.honest[role].ids
    foreign = (victim.chunk, liar.other.chunk, ChunkId(ABSENT), ChunkId(0), ChunkId(-1), ChunkId(HUGE))
    asked = m.Tickets(liar.space, *liar.mine, (*foreign, liar.chunk.chunk))
    reply = liar.must(FrameType.TICKETS, asked)
    assert isinstance(reply, m.TicketsReply)
    assert [chunk for chunk, _ in reply.append] == [liar.chunk.chunk]
    spans = (
        *(m.Span(ino, 0, 1 << 20) for ino in (victim.ino, ABSENT, 0, -1, HUGE)),
        *(m.Span(liar.file, start, length) for start, length in ((-5, 10), (0, -1), (HUGE, 1), (0, HUGE))),
    )
    reply = liar.must(FrameType.TICKETS, m.Tickets(liar.space, *liar.mine, spans=spans))
    assert isinstance(reply, m.TicketsReply)
    assert reply.ranges == ()
    old = (liar.opened.session, liar.old.incarnation, liar.old.lease_epoch)
    for session in (old, liar.other_session, (victim.session, victim.incarnation, victim.lease_epoch)):
        refused = liar.ask(FrameType.TICKETS, m.Tickets(liar.space, *session, (liar.chunk.chunk,)))
        assert verdict(refused) == Code.FENCED
    elsewhere = liar.ask(FrameType.TICKETS, m.Tickets(SpaceId(ABSENT), *liar.mine, (victim.chunk,)))
    assert verdict(elsewhere) == Code.NOT_FOUND


def test_a_guest_reads_the_very_bytes_he_was_given_and_no_others_of_the_chunk(cluster, scene):
    liar, victim = scene.liars["guest"], scene.ann.ids
    reply = liar.must(
        FrameType.TICKETS, m.Tickets(liar.space, *liar.mine, spans=(m.Span(liar.file, 10, 100),))
    )
    assert isinstance(reply, m.TicketsReply)
    (right,) = reply.ranges
    assert (right.offset, right.length) == (10, 100)
    place = right.places[0]
    beyond = (
        (right.chunk, 9, 1), (right.chunk, 9, 2), (right.chunk, 109, 2), (right.chunk, 110, 1), (right.chunk, 0, 5000),
        (right.chunk, -1, 50), (right.chunk, 10, -1), (right.chunk, HUGE, 1), (right.chunk, 10, HUGE),
        (victim.chunk, 10, 1), (liar.other.chunk, 10, 1), (0, 10, 1), (-1, 10, 1), (HUGE, 10, 1),
    )  # fmt: skip
    with calling((place.host, place.port), right.ticket) as caller:
        good = caller.call(FrameType.READ, m.Read(right.ticket, right.chunk, 10, 100))
        assert good[1] == b"m" * 100
        for chunk, offset, length in beyond:
            refused = caller.ask(FrameType.READ, m.Read(right.ticket, ChunkId(chunk), offset, length))
            assert verdict(refused) in (Code.NO_CHUNK, Code.BAD_REQUEST), (chunk, offset, length)
        entry = liar.read_ticket(place.server)  # opens the door and nothing else
        refused = caller.ask(FrameType.READ, m.Read(entry, right.chunk, 10, 100))
        assert verdict(refused) == Code.FORBIDDEN


def test_a_session_holds_no_more_than_so_many_chunks_it_has_not_committed(cluster):
    liar = liar_at_home(cluster, settle(cluster, "bob"))
    try:
        while not isinstance(
            reply := liar.ask(FrameType.CHUNK_ALLOCATE, m.ChunkAllocate(*liar.mine, 16)), m.ErrorReply
        ):
            pass
        held = cluster.sql("select count(*) from meta.chunks where session = $1", liar.opened.session)
    finally:
        liar.close()
    assert (reply.code, held[0]["count"]) == (Code.QUOTA, 256)
    assert settle(cluster, "carol").grant.limit == CHUNK_BYTES  # nobody else has less for it


def test_what_was_given_under_an_old_membership_epoch_is_worth_nothing_once_it_was_raised(cluster, scene):
    host, shared = host_of(cluster)
    guest = guest_of(host, shared)
    liar = Liar(guest, host.ids)
    places = {place.server: place for place in liar.chunk.places}
    identity, entries = guest.identity(), {server: liar.read_ticket(server) for server in places}
    span = m.Tickets(liar.space, *liar.mine, (liar.chunk.chunk,), spans=(m.Span(liar.file, 0, 10),))
    rights = liar.must(FrameType.TICKETS, span)
    assert isinstance(rights, m.TicketsReply)
    ((_, to_append),), (to_read,) = rights.append, rights.ranges
    host.delete(f"/v1/grants/{guest.given}")
    try:
        batch = partial(liar.ask, FrameType.BATCH, liar.batch())
        wait_until(lambda: verdict(batch()) == Code.UNAUTHORIZED, 5, "the batch is refused")
        before = scene.states.of({liar.space})
        for kind, message in (
            (FrameType.BATCH, liar.batch(liar.make(b"late"))),
            (FrameType.TREE, m.Tree(liar.space, 1)),
            (FrameType.CHUNK_ALLOCATE, m.ChunkAllocate(*liar.mine)),
            (FrameType.TICKETS, span),
        ):
            assert verdict(liar.ask(kind, message)) == Code.UNAUTHORIZED, kind.name
        assert greeting(cluster.address("metaserver-1"), identity) == Code.UNAUTHORIZED
        stored = liar.stored()
        for server, place in places.items():
            address = (place.host, place.port)
            old_word = partial(greeting, address, entries[server])
            wait_until(partial(_is_unauthorized, old_word), 5, "the chunkserver knows")
            assert greeting(address, to_append) == Code.UNAUTHORIZED
            other_right = scene.liars["at home"].read_ticket(server)
            with calling(address, other_right) as caller:
                grant, crcs = liar.chunk, liar.crcs(b"x", 5000)
                late = m.Append(to_append, grant.chunk, grant.epoch, 5000, crcs, True)
                assert verdict(caller.ask(FrameType.APPEND, late, b"x")) == Code.UNAUTHORIZED
                late_read = m.Read(to_read.ticket, to_read.chunk, to_read.offset, 1)
                assert verdict(caller.ask(FrameType.READ, late_read)) == Code.UNAUTHORIZED
        assert scene.states.of({liar.space}) == before
        assert liar.stored() == stored
    finally:
        liar.close()
    assert guest.post("/v1/tickets", {"space": "", "grant": guest.given}).status_code == 404
    reader = Reader(host)
    assert reader.content() == host.name.encode()
    reader.close()


def _is_unauthorized(ask: Callable[[], int]) -> bool:
    return ask() == Code.UNAUTHORIZED


def greeting(address: tuple[str, int], token: str) -> int:
    """What a server says to a HELLO with this token."""
    with calling(address) as caller:
        return verdict(caller.hello(token))


LOGGED = {
    "extents: another user's chunk": ("Write", "NOT_YOURS"),
    "receipts: MACs of zeroes": ("forged receipts", "NOT_DURABLE"),
    "replays: numbers that do not rise": ("BATCH", "BAD_REQUEST"),
    "ids: create: inode of another": ("Create", "INVALID"),
    "names: create b'a/b'": ("Create", "INVALID"),
    "frames: 17 chunks at once": ("CHUNK_ALLOCATE", "BAD_REQUEST"),
}
LOGGED_THERE = {
    "to another's chunk": ("APPEND", "FORBIDDEN"),
    "too long": ("APPEND", "BAD_REQUEST"),
}


def test_what_only_a_liar_does_is_logged_once_a_minute_and_without_what_he_said(make_cluster):
    cluster = make_cluster()  # the lines of a minute are bounded, and the other tests tell many lies
    cluster.up()
    liar = liar_at_home(cluster, settle(cluster, "bob"))
    place = liar.chunk.places[0]
    ticket = liar.read_ticket(place.server)
    servers = ("metaserver-1", *cluster.chunkservers())
    before = {name: len(cluster.log(name)) for name in servers}
    try:
        with calling((place.host, place.port), ticket) as caller:
            for _ in range(20):
                for name in LOGGED:
                    assert verdict(liar.ask(LIES[name].kind, LIES[name].says(liar)))
                for name in LOGGED_THERE:
                    lie = APPENDS[name]
                    assert verdict(caller.ask(FrameType.APPEND, lie.message(liar), lie.body))
        liar.must(FrameType.BATCH, liar.batch())  # what is right leaves no line
    finally:
        liar.close()
    logs = {name: cluster.log(name)[start:] for name, start in before.items()}
    found = [json.loads(line) for log in logs.values() for line in log.splitlines()]
    assert {each["level"] for each in found} == {"warning"}
    assert sorted((each["request"], each["code"]) for each in found) == sorted(
        {*LOGGED.values(), ("Create", "INVALID"), *LOGGED_THERE.values()}
    )
    assert {each.get("space") for each in found} == {liar.space}
    everything = "".join(logs.values())
    for secret in (
        ticket,
        liar.chunk.ticket,
        liar.chunk.ticket.rsplit(".")[-1],
        liar.person.access_token,
        "a/b",
    ):
        assert secret not in everything
