"""A lasting link: one connection, introduced again before its token is old and when a server does not believe it."""

import pytest
import trio

from cloudverge_mount.link import Link
from cloudverge_protocol import codec
from cloudverge_protocol import messages as m
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, Unavailable, make_error
from cloudverge_protocol.frames import FrameReader
from cloudverge_protocol.ids import PROTOCOL_VERSION
from cloudverge_protocol.messages import FrameType

pytestmark = pytest.mark.trio

QUESTION = m.Tickets(1, 1, 1, 1)


class Server:
    """Believes the tokens in ``believed``, each time it is asked anything."""

    def __init__(self):
        self.believed = {"first"}
        self.shown = []
        self.connections = 0
        self.port = 0
        self.error = None

    async def start(self, nursery):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, self.converse, [listener])

    async def converse(self, stream):
        self.connections += 1
        token, reader = "", FrameReader()
        while data := await stream.receive_some(1 << 16):
            for frame in reader.feed(data):
                kind, message = codec.decode_request(frame)
                try:
                    if kind is FrameType.HELLO:
                        token = message.token
                        self.shown.append(token)
                    reply = codec.encode_reply(kind, frame.request_id, self.answer(kind, token), 0)
                except CloudVergeError as error:
                    told = m.ErrorReply(int(error.code), error.message)
                    reply = codec.encode_error(kind, frame.request_id, told)
                await stream.send_all(reply)

    def answer(self, kind, token):
        if token not in self.believed:
            raise make_error(Code.UNAUTHORIZED, "this is no valid ticket")
        if self.error is not None and kind is not FrameType.HELLO:
            raise self.error
        return (
            m.HelloReply(PROTOCOL_VERSION, "c", "h", "s", 0)
            if kind is FrameType.HELLO
            else m.TicketsReply(60, (), ())
        )


class Purse:
    """Where the tokens come from."""

    def __init__(self):
        self.token = "first"
        self.next = "first"
        self.distrusted = 0
        self.error = None

    async def hello(self):
        if self.error is not None:
            raise self.error
        return m.Hello(PROTOCOL_VERSION, self.token)

    def distrust(self):
        self.distrusted += 1
        self.token = self.next


@pytest.fixture
async def server(nursery):
    made = Server()
    await made.start(nursery)
    return made


@pytest.fixture
def purse():
    return Purse()


@pytest.fixture
def link(server, purse, nursery):
    return Link(
        lambda: ("127.0.0.1", server.port), purse.hello, nursery, greet_every_s=0.5, distrusted=purse.distrust
    )


async def ask(link):
    return await link.call(FrameType.TICKETS, QUESTION)


async def test_a_token_is_shown_again_before_it_is_old_on_the_same_connection(server, link, purse):
    for _ in range(3):
        await ask(link)
    assert server.shown == ["first"]
    purse.token = "second"
    server.believed.add("second")
    await trio.sleep(0.6)
    await ask(link)
    await ask(link)
    assert server.shown == ["first", "second"]
    assert server.connections == 1


async def test_a_token_that_is_not_believed_is_replaced_and_the_call_repeated(server, link, purse):
    await ask(link)
    server.believed, purse.next = {"fresh"}, "fresh"
    await ask(link)
    assert server.shown == ["first", "fresh"]
    assert (purse.distrusted, server.connections) == (1, 1)


async def test_calls_side_by_side_are_introduced_again_without_harm(server, link, purse):
    await ask(link)
    server.believed, purse.next = {"fresh"}, "fresh"
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask, link)
    assert server.shown[-1] == "fresh"
    assert server.connections == 1


async def test_a_token_that_is_refused_twice_is_the_callers_matter(server, link, purse):
    await ask(link)
    server.believed = set()
    with pytest.raises(Denied) as caught:
        await ask(link)
    assert caught.value.code is Code.UNAUTHORIZED
    server.believed, purse.token = {"fresh"}, "fresh"
    await ask(link)


async def test_other_refusals_are_told_as_they_are_and_nothing_is_repeated(server, link, purse):
    await ask(link)
    server.error = make_error(Code.FORBIDDEN, "not you")
    with pytest.raises(Denied, match="not you"):
        await ask(link)
    assert (server.shown, purse.distrusted) == (["first"], 0)


async def test_what_auth_refuses_is_told_and_not_taken_for_a_server_that_is_away(server, link, purse):
    await ask(link)
    server.believed, purse.error = set(), Denied(Code.FORBIDDEN, "you have no such grant")
    for _ in range(3):
        with pytest.raises(Denied, match="no such grant"):
            await ask(link)
    fresh = Link(lambda: ("127.0.0.1", server.port), purse.hello, link._nursery)
    for _ in range(3):
        with pytest.raises(Denied, match="no such grant"):
            await ask(fresh)


async def test_a_server_that_is_away_is_tried_again_after_a_pause(purse, nursery):
    server = Server()
    await server.start(nursery)
    port, server.port = server.port, 1
    link = Link(lambda: ("127.0.0.1", server.port), purse.hello, nursery)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await ask(link)
    server.port = port
    await trio.sleep(0.3)
    await ask(link)
