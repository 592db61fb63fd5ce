"""A right was taken away: refused on standing connections, noted in the space's row, told to chunkservers."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from cloudverge_auth.keys import SigningKey
from cloudverge_auth.tokens import verify_chunk
from cloudverge_metaserver.authority import Ended
from cloudverge_metaserver.barring import Barring
from cloudverge_metaserver.frames import FrameRoutes
from cloudverge_metaserver.revocations import Revocations
from cloudverge_metaserver.tickets import TicketDesk
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, Unavailable
from cloudverge_protocol.ids import PROTOCOL_VERSION
from cloudverge_protocol.messages import Empty, Feed, FrameType, Hello, HelloReply, SessionOpen, Tree
from cloudverge_wire.frameclient import FrameClient
from cloudverge_wire.frameserver import serve_frames

pytestmark = pytest.mark.anyio
CLUSTER = "c" * 32


@dataclass
class Auth:
    """What auth lists as raised."""

    spaces: dict[int, int] = field(default_factory=dict)

    async def ended(self) -> Ended:
        return Ended(spaces=dict(self.spaces))


@dataclass
class Told:
    """Chunkservers: what each was told; those in ``away`` cannot be reached."""

    messages: dict[int, list] = field(default_factory=dict)
    away: set[int] = field(default_factory=set)

    async def call(self, place, kind, message, reply, timeout_s):
        assert kind == FrameType.EPOCHS
        if place.server in self.away:
            raise Unavailable(Code.UNREACHABLE, "away")
        self.messages.setdefault(place.server, []).append(message)
        return Empty()


@dataclass
class Bar:
    """All of it together; ``raised`` is what follows an answer of auth."""

    auth: Auth
    told: Told
    revocations: Revocations
    barring: Barring
    desk: TicketDesk

    async def raised(self, **spaces: int) -> None:
        self.auth.spaces = {int(name[1:]): epoch for name, epoch in spaces.items()}
        await self.revocations.poll()
        for listener, owed in self.revocations._owed.items():
            await listener(owed)
        self.revocations._owed.clear()


@pytest.fixture
def bar(world) -> Bar:
    auth, told, desk = Auth(), Told(), TicketDesk(SigningKey.generate(), CLUSTER)
    revocations = Revocations(auth)
    return Bar(auth, told, revocations, Barring(revocations, world.database, world.servers, told, desk), desk)


@pytest.fixture
async def connect(world, bar) -> AsyncIterator:
    """Connections to a frame port that takes a token for the identity of that name."""
    known, clients = {}, []

    async def authenticate(hello: Hello) -> object:
        bar.barring.check(known[hello.token])
        return known[hello.token]

    routes = FrameRoutes(world.database, world.sessions, world.chunks, world.reading, bar.barring.check)
    reply = HelloReply(PROTOCOL_VERSION, CLUSTER, "", "metaserver", 0)
    server = await serve_frames(
        "127.0.0.1", 0, authenticate=authenticate, hello_reply=lambda: reply, handle=routes.handle
    )

    async def connected(who) -> FrameClient:
        token = str(len(known))
        known[token] = replace(who, exp=1 << 40)
        clients.append(
            await FrameClient.connect("127.0.0.1", server.port, lambda: Hello(PROTOCOL_VERSION, token))
        )
        return clients[-1]

    yield connected
    for client in clients:
        client.close()
    await server.close()


async def code_of(client, kind, message) -> Code:
    with pytest.raises(CloudVergeError) as caught:
        await client.call(kind, message)
    return caught.value.code


async def test_a_standing_connection_is_refused_from_the_moment_its_epoch_is_over(mount, bar, connect):
    client = await connect(mount.who)
    await client.call(FrameType.TREE, Tree(1, 1))
    await bar.raised(s1=2)
    for kind, message in (
        (FrameType.TREE, Tree(1, 1)),
        (FrameType.FEED, Feed(1, 0)),
        (FrameType.SESSION_OPEN, SessionOpen(1, mount.cache_id, "x")),
        (FrameType.SESSION_RENEW, mount.ref),
    ):
        assert await code_of(client, kind, message) == Code.UNAUTHORIZED


async def test_who_comes_with_a_fresh_ticket_goes_on_and_who_has_an_old_one_does_not_come_in(
    mount, bar, connect, make_identity
):
    await bar.raised(s1=2)
    client = await connect(make_identity(mep=2))
    await client.call(FrameType.TREE, Tree(1, 1))
    with pytest.raises(Denied):
        await connect(mount.who)


async def test_other_spaces_go_on(mount, bar, make_identity):
    await bar.raised(s2=9)
    bar.barring.check(mount.who)
    with pytest.raises(Denied) as caught:
        bar.barring.check(make_identity(space=2, mep=8))
    assert caught.value.code == Code.UNAUTHORIZED
    bar.barring.check(make_identity(space=2, mep=9))


async def test_the_row_of_the_space_keeps_the_epoch_and_never_a_lower_one(world, mount, bar, make_identity):
    await world.open(make_identity(space=2, user=2))
    revision = await world.value("select revision from meta.spaces where space = 1")
    await bar.raised(s1=5, s3=7)
    epochs = await world.sql("select space, membership_epoch from meta.spaces order by space")
    assert [tuple(row) for row in epochs] == [(1, 5), (2, 1)]
    await bar.barring._keep({1: 4})
    assert await world.value("select membership_epoch from meta.spaces where space = 1") == 5
    assert await world.value("select revision from meta.spaces where space = 1") == revision + 1


async def test_a_batch_is_refused_by_the_row_wherever_it_comes_in(mount, bar):
    await mount.do(mount.create(1, b"a"))
    await bar.raised(s1=2)
    with pytest.raises(Denied) as caught:
        await mount.do(mount.create(1, b"b"))
    assert caught.value.code == Code.UNAUTHORIZED


async def test_every_chunkserver_is_told_under_a_ticket_for_it_alone(world, bar):
    await bar.raised(s1=2, s7=3)
    assert set(bar.told.messages) == set(world.keys)
    for server, (message,) in bar.told.messages.items():
        assert dict(message.spaces) == {1: 2, 7: 3}
        claims = verify_chunk(bar.desk.key.ring(), message.ticket, CLUSTER, time.time())
        assert (claims.right, claims.servers) == ("control", (server,))


async def test_one_that_cannot_be_reached_keeps_nobody_from_being_told(world, bar):
    here, away = sorted(world.keys)
    bar.told.away = {away}
    await bar.raised(s1=2)
    assert set(bar.told.messages) == {here}
    assert bar.revocations.lately() == {1: 2}  # and with its next heartbeat it hears of this


async def test_what_was_told_is_not_told_again_while_nothing_new_was_raised(bar):
    await bar.raised(s1=2)
    await bar.raised(s1=2)
    assert [len(each) for each in bar.told.messages.values()] == [1, 1]
