"""No frame is served before a HELLO with a valid token, and none tells of another space's things.

Each frame type has a row here: how to ask for what is ``other``'s, as ``own``. A type without a row fails
``test_every_frame_type_has_a_row``.
"""

import secrets
import struct
import time
from collections.abc import Callable

import pytest

from cloudverge_auth.keys import SigningKey
from cloudverge_auth.tokens import (
    ChunkTicket,
    Identity,
    ServerTicket,
    sign_chunk,
    sign_identity,
    sign_server,
)
from cloudverge_protocol import codec
from cloudverge_protocol import messages as m
from cloudverge_protocol.checksum import crc32c
from cloudverge_protocol.errors import Code
from cloudverge_protocol.frames import encode_frame
from cloudverge_protocol.ids import PROTOCOL_VERSION, ChunkId, Epoch, ServerId
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.messages import FrameType, Message
from cloudverge_protocol.operations import Entry, Write
from tests.fixtures.accounts import ABSENT, Ids, Person, settle
from tests.fixtures.cluster import Cluster
from tests.fixtures.forgeries import forge
from tests.fixtures.framecaller import FrameCaller, calling

MESSAGE = "a valid token is required"
CHUNKSERVER_TYPES = range(60, 90)


class Asking:
    """What a row may use: the caller's ids and tickets, and the ids that are named in the request."""

    def __init__(self, own: Person, other: Ids, read: str = "", append: str = "") -> None:
        self.own, self.other = own.ids, other
        self.read = read or "no ticket"
        self.append = append or "no ticket"
        self.receipts = own.receipts

    def session(self) -> tuple[int, int, int]:
        return self.own.session, self.own.incarnation, self.own.lease_epoch

    def their_session(self) -> tuple[int, int, int]:
        return self.other.session, self.other.incarnation, self.other.lease_epoch

    def batch(self, *operations: object, session: tuple[int, int, int] | None = None) -> m.Batch:
        mine = session or self.session()
        entries = tuple(Entry(mine[1], 1000 + n, op) for n, op in enumerate(operations))
        return m.Batch(*mine, (), entries)

    def write(self) -> Write:
        now_ns = 1
        return Write(self.own.ino, (Extent(0, 1, self.other.chunk, 0),), 1, now_ns, now_ns)


Row = Callable[[Asking], Message]

ROWS: dict[FrameType, tuple[Row, ...]] = {
    FrameType.HELLO: (),  # is how a caller becomes known: it has tests of its own
    FrameType.PING: (lambda a: m.Empty(),),
    FrameType.SESSION_OPEN: (lambda a: m.SessionOpen(a.other.space, secrets.token_bytes(16), "thief"),),
    FrameType.SESSION_RENEW: (lambda a: m.SessionRef(*a.their_session()),),
    FrameType.SESSION_CLOSE: (lambda a: m.SessionRef(*a.their_session()),),
    FrameType.INCARNATION_CLOSE: (
        lambda a: m.IncarnationClose(*a.their_session(), a.other.incarnation),
        lambda a: m.IncarnationClose(*a.session(), a.other.incarnation),
    ),
    FrameType.IDS: (lambda a: m.Ids(*a.their_session(), 10),),
    FrameType.BATCH: (
        lambda a: a.batch(session=a.their_session()),
        lambda a: a.batch(a.write(), session=a.their_session()),
        lambda a: a.batch(a.write()),
        lambda a: m.Batch(*a.session(), (m.Receipt(1, a.other.chunk, 1, 1, b"m" * 16),), ()),
    ),
    FrameType.TREE: (lambda a: m.Tree(a.other.space, 1),),
    FrameType.LOAD: (
        lambda a: m.Load(a.other.space, inodes=(1,)),
        lambda a: m.Load(a.other.space, dentries=((1, b"file"),), regions=((a.other.ino, 0),)),
    ),
    FrameType.CHUNK_ALLOCATE: (lambda a: m.ChunkAllocate(*a.their_session()),),
    FrameType.CHUNK_SEAL: (
        lambda a: m.ChunkSeal(*a.their_session(), a.other.chunk),
        lambda a: m.ChunkSeal(*a.session(), a.other.chunk),
    ),
    FrameType.CHUNK_LOCATE: (
        lambda a: m.ChunkLocate(a.other.space, (a.other.chunk,)),
        lambda a: m.ChunkLocate(a.own.space, (a.other.chunk,)),
    ),
    FrameType.TICKETS: (
        lambda a: m.Tickets(a.other.space, *a.their_session()),
        lambda a: m.Tickets(a.other.space, *a.session(), (a.other.chunk,)),
        lambda a: m.Tickets(a.other.space, *a.session(), (), (ServerId(1),)),
        lambda a: m.Tickets(a.other.space, *a.session(), (), (), (m.Span(a.other.ino, 0, 1),)),
    ),
    FrameType.DAMAGE: (
        lambda a: m.Damage(a.other.space, a.other.chunk, 1),
        lambda a: m.Damage(a.own.space, a.other.chunk, 1),
    ),
    FrameType.FEED: (lambda a: m.Feed(a.other.space, 0),),
    FrameType.APPEND: (
        lambda a: m.Append(a.append, a.other.chunk, 1, 0, (crc32c(b"x"),), False),
        lambda a: m.Append(a.read, a.other.chunk, 1, 0, (crc32c(b"x"),), False),
    ),
    FrameType.READ: (
        lambda a: m.Read(a.read, a.other.chunk, 0, 1),
        lambda a: m.Read(a.append, a.other.chunk, 0, 1),
    ),
    FrameType.REPLICA_SEAL: (
        lambda a: m.ReplicaSeal(a.read, a.other.chunk, 9),
        lambda a: m.ReplicaSeal(a.append, a.other.chunk, 9),
    ),
    FrameType.REPLICA_STAT: (lambda a: m.ReplicaStat(a.append, (a.other.chunk,)),),
    FrameType.REPLICA_DELETE: (lambda a: m.ReplicaDelete(a.append, (a.other.chunk,)),),
    FrameType.REPLICA_VERIFY: (lambda a: m.ReplicaVerify(a.append, a.other.chunk),),
    FrameType.REPLICA_FETCH: (
        lambda a: m.ReplicaFetch(a.append, a.other.chunk, a.other.space, 9, 1, (m.Place(1, "127.0.0.1", 1),)),
    ),
    FrameType.EPOCHS: (lambda a: m.Epochs(a.append, ((a.other.space, 1 << 40),)),),
}
TYPES = [kind for kind in FrameType if kind is not FrameType.HELLO]


def test_every_frame_type_has_a_row():
    assert set(ROWS) == set(FrameType) == set(m.REQUESTS)
    assert all(ROWS[kind] for kind in TYPES)


@pytest.fixture(scope="module")
def ann(lasting_cluster: Cluster) -> Person:
    return settle(lasting_cluster, "ann")


@pytest.fixture(scope="module")
def bob(lasting_cluster: Cluster) -> Person:
    return settle(lasting_cluster, "bob")


@pytest.fixture(scope="module")
def keys(lasting_cluster: Cluster) -> dict[str, SigningKey]:
    """The cluster's own signing keys."""
    tables = {"auth": "auth.signing_keys", "meta": "meta.signing_keys"}
    return {
        name: SigningKey.from_bytes(lasting_cluster.sql(f"select private from {table}")[0]["private"])
        for name, table in tables.items()
    }


def _claims(person: Person) -> Identity:
    ids = person.ids
    return Identity(str(ids.user), person.name, ids.device, "laptop", ids.space, "owner", 1)


@pytest.fixture(scope="module")
def bad_tokens(lasting_cluster: Cluster, ann: Person, keys: dict[str, SigningKey]) -> dict[str, str]:
    cluster_id = lasting_cluster.report["cluster"]
    chunk = ChunkTicket("read", ann.ids.space)
    return forge(sign_identity, keys["auth"], cluster_id, _claims(ann), (sign_chunk, chunk)) | {
        "an access token": ann.access_token,
        "an identity signed by the metaserver": sign_identity(
            keys["meta"], cluster_id, _claims(ann), time.time()
        ),
        "a server ticket signed by auth": sign_server(
            keys["auth"], cluster_id, ServerTicket("metaserver"), time.time()
        ),
        "a chunk ticket signed by auth": sign_chunk(
            keys["auth"], cluster_id, ChunkTicket("read", ann.ids.space, servers=(ServerId(1),)), time.time()
        ),
    }


@pytest.fixture(scope="module")
def bad_entries(lasting_cluster: Cluster, ann: Person, keys: dict[str, SigningKey]) -> dict[str, str]:
    """What must not let anybody into a chunkserver, beside ``bad_tokens``."""
    cluster_id, space = lasting_cluster.report["cluster"], ann.ids.space
    number = _server_id(lasting_cluster, "chunkserver-1")
    here = ChunkTicket("read", space, servers=(number,))

    def signed(claims: ChunkTicket) -> str:
        return sign_chunk(keys["meta"], cluster_id, claims, time.time())

    return forge(sign_chunk, keys["meta"], cluster_id, here, (sign_identity, _claims(ann))) | {
        "who we are": ann.identity(),
        "a ticket for another server": signed(ChunkTicket("read", space, servers=(ServerId(number + 100),))),
        "a ticket for any server": signed(ChunkTicket("read", space)),
        "control": signed(ChunkTicket("control", space, servers=(number,))),
    }


def _server_id(cluster: Cluster, name: str) -> ServerId:
    """The number of a chunkserver."""
    ((server,),) = cluster.sql(
        "select server from meta.servers where frame_port = $1", cluster.address(name)[1]
    )
    return ServerId(server)


def _address(cluster: Cluster, kind: FrameType) -> tuple[str, int]:
    return cluster.address("chunkserver-1" if kind in CHUNKSERVER_TYPES else "metaserver-1")


def _assert_is_the_one_refusal(caller: FrameCaller) -> None:
    frame = caller.receive()
    assert frame is not None, "closed without a word"
    assert frame.type == FrameType.HELLO
    reply = codec.decode_reply(FrameType.HELLO, frame)
    assert reply == m.ErrorReply(Code.UNAUTHORIZED, MESSAGE)
    assert caller.receive() is None, "the connection stays open"


def _malformed(kind: int) -> dict[str, bytes]:
    """Frames of a type with something wrong in them."""
    return {
        "empty header": encode_frame(kind, 0, b""),
        "header of noise": encode_frame(kind, 0, b"\xc1\xff\x00" * 50),
        "header of another shape": encode_frame(kind, 0, codec.encode({"a": [1, 2, {}]})),
        "a body nobody asked for": encode_frame(kind, 0, codec.encode([]), 5) + b"12345",
        "deep nesting": encode_frame(kind, 0, b"\x91" * 10_000),
        "a reply": encode_frame(kind, 0, codec.encode([]), 0, 1),
        "unknown flags": encode_frame(kind, 0, codec.encode([]), 0, 0x80),
    }


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_no_frame_is_served_before_hello(cluster, ann, kind):
    requests = [codec.encode_request(kind, 0, row(Asking(ann, ann.ids))) for row in ROWS[kind]]
    for request in [*requests, *_malformed(kind).values()]:
        with calling(_address(cluster, kind)) as caller:
            caller.send(request)
            _assert_is_the_one_refusal(caller)


@pytest.mark.parametrize("server", ["metaserver-1", "chunkserver-1"])
def test_what_is_no_frame_of_ours_gets_the_same_answer(cluster, server):
    noise = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        secrets.token_bytes(4096),
        b"\x00" * 4096,
        struct.pack("<HHIIIII", 1, 0, 1, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0),
        b"",
        encode_frame(FrameType.HELLO, 0, b"\x00" * (8 << 20)),
        encode_frame(FrameType.BATCH, 0, b"\x00" * (8 << 20)),
        *_malformed(FrameType.HELLO).values(),
        *_malformed(0).values(),
        *_malformed(65535).values(),
    ]
    for data in noise:
        with calling(cluster.address(server)) as caller:
            caller.send(data)
            caller.end_sending()
            _assert_is_the_one_refusal(caller)


@pytest.mark.parametrize("server", ["metaserver-1", "chunkserver-1"])
def test_a_bad_token_gets_the_same_answer_whatever_is_wrong_with_it(cluster, bad_tokens, bad_entries, server):
    tokens = bad_tokens if server.startswith("meta") else bad_tokens | bad_entries
    for wrong, token in tokens.items():
        with calling(cluster.address(server)) as caller:
            hello = codec.encode_request(FrameType.HELLO, 0, m.Hello(PROTOCOL_VERSION, token))
            caller.send(hello + codec.encode_request(FrameType.PING, 0, m.Empty()))
            frame = caller.receive()
            assert frame is not None, wrong
            assert codec.decode_reply(FrameType.HELLO, frame) == m.ErrorReply(Code.UNAUTHORIZED, MESSAGE), (
                wrong
            )
            assert caller.receive() is None, wrong


@pytest.mark.parametrize("server", ["metaserver-1", "chunkserver-1"])
def test_a_frame_after_the_tokens_end_is_refused_before_it_is_parsed(cluster, ann, keys, server):
    nearly_over = sign_identity(keys["auth"], cluster.report["cluster"], _claims(ann), time.time() - 59)
    if server.startswith("chunk"):
        entry = ChunkTicket("read", ann.ids.space, servers=(_server_id(cluster, server),))
        nearly_over = sign_chunk(keys["meta"], cluster.report["cluster"], entry, time.time() - 59)
    with calling(cluster.address(server), nearly_over) as caller:
        time.sleep(1.2)
        for kind in TYPES:
            for request in (codec.encode_request(kind, 0, m.Empty()), _malformed(kind)["header of noise"]):
                caller.send(request)
                frame = caller.receive()
                assert frame is not None, kind.name
                assert codec.decode_reply(kind, frame) == m.ErrorReply(Code.UNAUTHORIZED, MESSAGE), kind.name


CHUNK_REQUESTS: dict[FrameType, Callable[[str, Ids], Message]] = {
    FrameType.APPEND: lambda t, ids: m.Append(t, ids.chunk, 1, 0, (crc32c(b"x"),), True),
    FrameType.READ: lambda t, ids: m.Read(t, ids.chunk, 0, 1),
    FrameType.REPLICA_SEAL: lambda t, ids: m.ReplicaSeal(t, ids.chunk, 9),
    FrameType.REPLICA_STAT: lambda t, ids: m.ReplicaStat(t, (ids.chunk,)),
    FrameType.REPLICA_DELETE: lambda t, ids: m.ReplicaDelete(t, (ids.chunk,)),
    FrameType.REPLICA_VERIFY: lambda t, ids: m.ReplicaVerify(t, ids.chunk),
    FrameType.EPOCHS: lambda t, ids: m.Epochs(t, ((ids.space, Epoch(1 << 40)),)),
    FrameType.REPLICA_FETCH: lambda t, ids: m.ReplicaFetch(
        t, ids.chunk, ids.space, 9, 1, (m.Place(ServerId(1), "127.0.0.1", 1),)
    ),
}


def _home_of(cluster: Cluster, chunk: int) -> tuple[tuple[str, int], ServerId]:
    """The frame port of a chunkserver that holds the chunk, and its number."""
    query = """select host, frame_port, server from meta.replicas join meta.servers using (server)
        where chunk = $1 order by position limit 1"""
    ((host, port, server),) = cluster.sql(query, chunk)
    return (str(host), int(port)), ServerId(server)


def test_every_request_of_chunkservers_takes_a_ticket():
    assert set(CHUNK_REQUESTS) == {kind for kind in FrameType if kind in CHUNKSERVER_TYPES}


@pytest.mark.parametrize("kind", CHUNK_REQUESTS, ids=lambda kind: kind.name)
def test_a_bad_chunk_ticket_opens_no_chunk_not_even_ones_own(cluster, ann, keys, kind):
    right = {FrameType.APPEND: "append", FrameType.READ: "read"}.get(kind, "control")
    ids = ann.ids
    claims = ChunkTicket(right, ids.space, ids.chunk, 1, 1 << 20)
    cluster_id = cluster.report["cluster"]
    bad = forge(sign_chunk, keys["meta"], cluster_id, claims, (sign_server, ServerTicket("metaserver")))
    signed_by_auth = sign_chunk(keys["auth"], cluster_id, claims, time.time())
    elsewhere = ChunkTicket(right, ids.space, ids.chunk, 1, 1 << 20, (ServerId(1 << 40),))
    for_others = sign_chunk(keys["meta"], cluster_id, elsewhere, time.time())
    bad |= {"signed by auth": signed_by_auth, "for another server": for_others}
    address, server = _home_of(cluster, ids.chunk)
    with calling(address, ann.read_ticket(server)) as caller:
        for wrong, ticket in bad.items():
            body = b"x" if kind is FrameType.APPEND else b""
            reply = caller.ask(kind, CHUNK_REQUESTS[kind](ticket, ids), body)
            assert reply == m.ErrorReply(Code.UNAUTHORIZED, MESSAGE), wrong
    assert _content(cluster, ann) == ann.name.encode()


def _content(cluster: Cluster, person: Person) -> bytes:
    """What the person's file holds, read the proper way."""
    length = len(person.name)
    address, server = _home_of(cluster, person.ids.chunk)
    ticket = person.read_ticket(server)
    with calling(address, ticket) as caller:
        request = m.Read(ticket, person.ids.chunk, 0, length)
        reply, body = caller.call(FrameType.READ, request)
    assert isinstance(reply, m.ReadReply), reply
    return body[:length]


def _asked(caller: FrameCaller, kind: FrameType, request: Message) -> tuple[object, ...]:
    body = b"x" if kind is FrameType.APPEND else b""
    reply, data = caller.call(kind, request, body)
    if isinstance(reply, m.TicketsReply):  # tickets differ in time, which tells nothing
        return (len(reply.read), len(reply.append), len(reply.ranges))
    return (reply, data)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_what_is_another_users_looks_like_what_does_not_exist(cluster, ann, bob, keys, kind):
    home, server = _home_of(cluster, ann.ids.chunk)
    read, cluster_id = bob.read_ticket(server), cluster.report["cluster"]
    of_bob = ChunkTicket("append", bob.ids.space, bob.ids.chunk, 1, 1 << 20)
    append = sign_chunk(keys["meta"], cluster_id, of_bob, time.time())
    address, token = (home, read) if kind in CHUNKSERVER_TYPES else (_address(cluster, kind), bob.identity())
    for row in ROWS[kind]:
        with calling(address, token) as caller:
            theirs = _asked(caller, kind, row(Asking(bob, ann.ids, read, append)))
            absent = _asked(caller, kind, row(Asking(bob, ABSENT, read, append)))
        assert theirs == absent
    assert _content(cluster, ann) == ann.name.encode()


def test_the_rows_above_do_reach_ones_own(cluster, ann):
    """So that what is refused there is refused for its ids, not for its form."""
    own = Asking(ann, ann.ids, append=ann.grant.ticket)
    with calling(cluster.address("metaserver-1"), ann.identity()) as caller:
        for kind in (
            *(FrameType.SESSION_RENEW, FrameType.IDS, FrameType.TREE, FrameType.LOAD, FrameType.FEED),
            *(FrameType.CHUNK_ALLOCATE, FrameType.CHUNK_LOCATE, FrameType.TICKETS, FrameType.BATCH),
        ):
            reply = caller.ask(kind, ROWS[kind][0](own))
            assert not isinstance(reply, m.ErrorReply), (kind.name, reply)


def test_a_chunk_ticket_for_a_space_does_not_read_another_spaces_chunk(cluster, ann, bob):
    address, server = _home_of(cluster, ann.ids.chunk)
    ticket = bob.read_ticket(server)
    with calling(address, ticket) as caller:
        theirs = caller.call(FrameType.READ, m.Read(ticket, ann.ids.chunk, 0, 1))
        absent = caller.call(FrameType.READ, m.Read(ticket, ChunkId(1 << 40), 0, 1))
    assert theirs == absent
    assert isinstance(theirs[0], m.ErrorReply)
    assert theirs[0].code == Code.NO_CHUNK
