"""Plain text stays on this machine; TLS with the cluster CA works and trusts nobody else."""

import asyncio
import ssl

import httpx
import pytest
import trustme

from cloudverge_protocol.errors import Code, ProtocolFault, Unavailable
from cloudverge_protocol.messages import Empty, FrameType, Read, ReadReply
from cloudverge_wire import frameserver, listen
from cloudverge_wire.arguments import ServerSettings, parse, settings_config
from cloudverge_wire.httpserve import serve_http
from cloudverge_wire.listen import (
    TlsFiles,
    check_listener,
    client_tls,
    is_loopback,
    open_listener,
    server_tls,
)

pytestmark = pytest.mark.anyio


class Settings(ServerSettings):
    model_config = settings_config("listener")


@pytest.fixture
def files(tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    made = TlsFiles(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")
    authority.cert_pem.write_to_path(made.ca)
    certificate.private_key_pem.write_to_path(made.key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(made.certificate, append=True)
    return made


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_plain_text_on_loopback_is_fine(host):
    assert is_loopback(host)
    check_listener(host, tls=False, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "storage.example", ""])
def test_plain_text_elsewhere_is_refused_unless_asked_for(host):
    with pytest.raises(ProtocolFault, match="--insecure") as caught:
        check_listener(host, tls=False, insecure=False)
    assert caught.value.code == Code.INVALID
    check_listener(host, tls=True, insecure=False)
    check_listener(host, tls=False, insecure=True)


def test_a_listener_refuses_before_it_binds():
    with pytest.raises(ProtocolFault):
        open_listener("0.0.0.0", 0)


def test_a_taken_port_is_an_error():
    with open_listener("127.0.0.1", 0) as first, pytest.raises(OSError, match="in use"):
        open_listener("127.0.0.1", first.getsockname()[1])


async def test_frames_travel_over_tls(frames, files):
    def handle(peer, kind, message, body):
        return ReadReply(0, ()), (bytes(message.length),)

    server = await frames.serve(handle, ssl=server_tls(files))
    client = await frames.client(server, ssl=client_tls(files.ca))
    for length in (0, 10, 4 << 20):
        _, body = await client.call(FrameType.READ, Read("", 1, 0, length))
        assert body == bytes(length)
    assert await client.call(FrameType.PING, Empty()) == (Empty(), b"")


async def test_a_server_of_another_authority_is_not_trusted(frames, files, tmp_path):
    server = await frames.serve(lambda *_: None, ssl=server_tls(files))
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    with pytest.raises(Unavailable, match="certificate"):
        await frames.client(server, ssl=client_tls(other))


def test_the_contexts_take_no_old_versions(files):
    for context in (server_tls(files), client_tls(files.ca)):
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert client_tls(files.ca).verify_mode == ssl.CERT_REQUIRED


def test_files_that_cannot_be_used_are_errors_that_name_them(files, tmp_path):
    with pytest.raises(ProtocolFault, match=r"missing\.pem"):
        server_tls(TlsFiles(files.ca, tmp_path / "missing.pem", files.key))
    files.key.write_text("no key")
    with pytest.raises(ProtocolFault, match=r"key\.pem"):
        server_tls(files)
    with pytest.raises(ProtocolFault, match=r"key\.pem"):
        client_tls(files.key)


async def test_a_certificate_is_renewed_under_a_running_server(frames, files, tmp_path, monkeypatch):
    monkeypatch.setattr(listen, "LOOK_AGAIN_S", 0.0)
    server = await frames.serve(lambda *_: None, ssl=server_tls(files))
    renewed = trustme.CA()
    other = tmp_path / "other.pem"
    renewed.cert_pem.write_to_path(other)
    certificate = renewed.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(files.key)
    files.certificate.write_text("half a certif")
    (await frames.client(server, ssl=client_tls(files.ca))).close()  # looks, and keeps the old one
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "new.pem")
    (tmp_path / "new.pem").replace(files.certificate)
    (await frames.client(server, ssl=client_tls(files.ca))).close()  # looks, for the next one
    await (await frames.client(server, ssl=client_tls(other))).call(FrameType.PING, Empty())


async def test_a_caller_who_never_ends_the_handshake_is_cut_off(frames, files, monkeypatch):
    monkeypatch.setattr(frameserver, "HELLO_WITHIN_S", 0.2)
    server = await frames.serve(lambda *_: None, ssl=server_tls(files))
    caller = await frames.raw(server)
    await caller.send(b"\x16\x03\x01")
    async with asyncio.timeout(5):
        assert await caller.reader.read() == b""


async def test_http_speaks_tls_as_the_frames_do(files):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["scheme"].encode()})

    server = await serve_http(app, "127.0.0.1", 0, tls=files)
    async with httpx.AsyncClient(verify=client_tls(files.ca), trust_env=False) as client:
        assert (await client.get(server.url)).text == "https"
    await server.close()


@pytest.mark.parametrize("left_out", ["--tls-ca", "--tls-certificate", "--tls-key"])
def test_half_of_tls_is_refused(files, left_out, capsys):
    given = {"--tls-ca": files.ca, "--tls-certificate": files.certificate, "--tls-key": files.key}
    flags = [text for name, path in given.items() if name != left_out for text in (name, str(path))]
    with pytest.raises(SystemExit):
        parse(Settings, flags)
    assert "belong together" in capsys.readouterr().err


def test_the_ca_alone_is_for_calling(files):
    assert parse(Settings, ["--tls-ca", str(files.ca)]).tls is None
