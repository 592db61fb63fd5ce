"""TLS from the mount's side: bytes arrive whole, and whoever is not our server is told apart from one that is away."""

import asyncio
import datetime
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trustme
import uvloop

from cloudverge_mount.authclient import AuthClient
from cloudverge_mount.connection import Connection
from cloudverge_mount.endpoints import Endpoints, load_cluster, remote, trusting
from cloudverge_mount.link import Link
from cloudverge_mount.tlsfaults import Untrusted
from cloudverge_mount.tlstransport import RECEIVE_BYTES, TlsTransport
from cloudverge_mount.transport import connect
from cloudverge_protocol.errors import Code, ProtocolFault, Refused, Unavailable
from cloudverge_protocol.ids import PROTOCOL_VERSION
from cloudverge_protocol.messages import (
    Append,
    AppendReply,
    Empty,
    FrameType,
    Hello,
    HelloReply,
    Read,
    ReadReply,
)
from cloudverge_wire.frameserver import serve_frames
from cloudverge_wire.httpserve import serve_http
from cloudverge_wire.listen import TlsFiles, server_tls

HOST = "127.0.0.1"
LARGE = 4 << 20


class Authority:
    """A CA of this test, with its file and the files of servers it vouches for."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ca = folder, trustme.CA()
        folder.mkdir()
        self.pem = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.pem)

    def files(self, name: str = HOST, **options: object) -> TlsFiles:
        made = self._ca.issue_cert(name, **options)
        files = TlsFiles(self.pem, self._folder / "server.pem", self._folder / "server.key")
        made.cert_chain_pems[0].write_to_path(files.certificate)
        made.private_key_pem.write_to_path(files.key)
        return files


class Identity:
    exp = None


async def _no_http(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b'{"cluster": "c"}'})


@contextmanager
def servers(files: TlsFiles | None, heard: list[Hello] | None = None) -> Iterator[tuple[int, int]]:
    """Our frame server and our HTTP server as they run in a server, in a thread: (frame port, HTTP port)."""
    started, ports = threading.Event(), []

    async def authenticate(hello: Hello) -> object:
        if heard is not None:
            heard.append(hello)
        return Identity()

    def handle(peer, kind, message, body):
        if kind is FrameType.READ:
            return ReadReply(0, ()), (bytes([message.offset % 256]) * message.length,)
        return AppendReply(sum(body) % 65536, ()), ()

    def hello_reply() -> HelloReply:
        return HelloReply(PROTOCOL_VERSION, "c", "h", "test", 0)

    async def serve() -> None:
        context = server_tls(files) if files else None
        frames = await serve_frames(
            HOST, 0, authenticate=authenticate, hello_reply=hello_reply, handle=handle, ssl=context
        )
        http = await serve_http(_no_http, HOST, 0, tls=files)
        ports.extend((frames.port, http.port))
        loop.append(asyncio.get_running_loop())
        started.set()
        await stop.wait()
        await frames.close(0.1)
        await http.close()

    loop: list[asyncio.AbstractEventLoop] = []
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: uvloop.run(serve()))
    thread.start()
    try:
        assert started.wait(10)
        yield ports[0], ports[1]
    finally:
        loop[0].call_soon_threadsafe(stop.set)
        thread.join(10)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


async def hello() -> Hello:
    return Hello(PROTOCOL_VERSION, "t")


async def greet(port: int, ca: Path | None) -> None:
    """Open a connection, say PING, close it."""
    tls = trusting(ca) if ca else None
    async with trio.open_nursery() as nursery:
        try:
            connection = await Connection.open(HOST, port, hello, nursery, tls=tls)
        except Unavailable as error:
            nursery.cancel_scope.cancel()
            caught = error
        else:
            await connection.call(FrameType.PING, Empty())
            connection.close()
            nursery.cancel_scope.cancel()
            return
    raise caught


@pytest.mark.trio
async def test_bodies_of_all_sizes_travel_whole_in_both_directions_at_once(authority):
    with servers(authority.files()) as (port, _):
        async with trio.open_nursery() as nursery:
            connection = await Connection.open(HOST, port, hello, nursery, tls=trusting(authority.pem))

            async def read(number: int, size: int) -> None:
                _, body = await connection.call(FrameType.READ, Read("", 1, number, size))
                assert body == bytes([number]) * size

            async def append(number: int, size: int) -> None:
                data = bytes([number]) * size
                parts = (data[: size // 3], data[size // 3 :])
                reply, _ = await connection.call(FrameType.APPEND, Append("", 1, 1, 0, (), False), parts)
                assert reply.length == number * size % 65536

            async with trio.open_nursery() as calls:
                sizes = (0, 1, 16_383, 16_384, 65_537, RECEIVE_BYTES + 1, LARGE)
                for number, size in enumerate(sizes * 3):
                    calls.start_soon(read, number, size)
                    calls.start_soon(append, number, size)
            connection.close()
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_the_newest_tls_is_spoken(authority):
    with servers(authority.files()) as (port, _):
        transport = await connect(HOST, port, tls=trusting(authority.pem), timeout_s=5)
        assert isinstance(transport, TlsTransport)
        assert transport.version == "TLSv1.3"
        transport.close()


@pytest.mark.trio
async def test_a_server_of_another_authority_is_untrusted_and_hears_no_token(authority, tmp_path):
    theirs, heard = Authority(tmp_path / "theirs"), []
    with servers(theirs.files(), heard) as (port, _):
        with pytest.raises(Untrusted) as caught:
            await greet(port, authority.pem)
        assert not heard
        await greet(port, theirs.pem)
        assert heard
    assert "not from this cluster's CA" in caught.value.message
    assert f"{HOST}:{port}" in caught.value.message


@pytest.mark.trio
async def test_an_expired_certificate_is_told_as_such(authority):
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    with servers(authority.files(not_after=past)) as (port, _), pytest.raises(Untrusted, match="has expired"):
        await greet(port, authority.pem)


@pytest.mark.trio
async def test_a_certificate_for_another_address_is_told_as_such(authority):
    files = authority.files("192.0.2.7")
    with servers(files) as (port, _), pytest.raises(Untrusted, match="for another address"):
        await greet(port, authority.pem)


@pytest.mark.trio
async def test_a_server_downgraded_to_plain_text_is_untrusted(authority):
    with servers(None) as (port, http):
        with pytest.raises(Untrusted, match="plain text where TLS is expected"):
            await greet(port, authority.pem)
        async with AuthClient(f"https://{HOST}:{http}", trusting(authority.pem)) as auth:
            with pytest.raises(Untrusted, match="plain text where TLS is expected"):
                await auth.keys()


@pytest.mark.trio
async def test_plain_text_to_a_server_with_tls_says_that_it_speaks_tls(authority):
    with servers(authority.files()) as (port, http):
        with pytest.raises(Untrusted, match="speaks TLS"):
            await greet(port, None)
        async with AuthClient(f"http://{HOST}:{http}") as auth:
            with pytest.raises(Untrusted, match="speaks TLS"):
                await auth.keys()


@pytest.mark.trio
async def test_http_names_the_faults_of_certificates_too(authority, tmp_path):
    with servers(Authority(tmp_path / "theirs").files()) as (_, http):
        async with AuthClient(f"https://{HOST}:{http}", trusting(authority.pem)) as auth:
            with pytest.raises(Untrusted, match="not from this cluster's CA"):
                await auth.keys()


@pytest.mark.trio
async def test_a_server_that_is_away_is_not_called_untrusted(authority):
    with servers(authority.files()) as (port, http):
        pass
    for ca in (None, authority.pem):
        with pytest.raises(Unavailable) as caught:
            await greet(port, ca)
        assert not isinstance(caught.value, Untrusted)
        assert caught.value.code == Code.UNREACHABLE
    async with AuthClient(f"https://{HOST}:{http}", trusting(authority.pem)) as auth:
        with pytest.raises(Unavailable) as caught:
            await auth.keys()
    assert not isinstance(caught.value, Untrusted)


@pytest.mark.trio
async def test_a_link_stays_with_the_reason_while_it_pauses(authority, tmp_path):
    with servers(Authority(tmp_path / "theirs").files()) as (port, _):
        async with trio.open_nursery() as nursery:
            link = Link(lambda: (HOST, port), hello, nursery, tls=trusting(authority.pem))
            for _ in range(2):  # the second one is answered from memory
                with pytest.raises(Untrusted, match="not from this cluster's CA"):
                    await link.call(FrameType.PING, Empty())
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_connection_cut_in_the_middle_is_an_end_and_not_a_hang(authority):
    with servers(authority.files()) as (port, _):
        transport = await connect(HOST, port, tls=trusting(authority.pem), timeout_s=5)
        await transport.send((b"no frame at all" * 10,))
        with trio.fail_after(10):
            while await transport.receive_into(memoryview(bytearray(4096))):
                pass
        transport.close()


def test_a_ca_that_cannot_be_read_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "ca.pem").write_text("not a certificate")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(Refused, match=str(path)):
            Endpoints(f"https://{HOST}:1", (HOST, 2), ca=path).tls()


def test_where_a_ca_is_known_plain_text_is_refused(tmp_path):
    with pytest.raises(Refused, match="plain text"):
        remote(f"http://{HOST}:7420", None, tmp_path / "ca.pem")
    assert remote(f"http://{HOST}:7420", None, None).tls() is None
    report = (
        f'{{"auth_url": "http://{HOST}:1", "metaserver_frames": "{HOST}:2", "cluster": "c", "ca": "ca.pem"}}'
    )
    (tmp_path / "cluster.json").write_text(report)
    with pytest.raises(ProtocolFault, match="TLS"):
        load_cluster(tmp_path)


def test_only_the_given_authority_is_trusted(authority):
    context = trusting(authority.pem)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
