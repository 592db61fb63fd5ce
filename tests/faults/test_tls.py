"""With TLS on nothing that is anybody's crosses a wire in the clear, and nobody is let down to plain text.

The same is done twice, with and without TLS, under a capture of all that crosses loopback: the plain run shows that the
capture would have seen it.
"""

import json
import secrets
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloudverge_protocol import codec
from cloudverge_protocol.ids import PROTOCOL_VERSION
from cloudverge_protocol.messages import FrameType, Hello
from tests.fixtures.capture import Capture
from tests.fixtures.cluster import Cluster, Report
from tests.fixtures.enroller import Authority

TOKEN_HEAD = b"eyJhbGciOi"  # every JSON web token begins so


@pytest.fixture(scope="module")
def secured() -> Iterator[Cluster]:
    """A cluster with TLS on loopback."""
    made = Cluster(tls=True)
    try:
        made.up()
        yield made
    finally:
        made.close()


@pytest.fixture(params=["plain", "tls"])
def either(request, cluster, secured) -> Iterator[Cluster]:
    """The plain cluster, and the one with TLS."""
    chosen = cluster if request.param == "plain" else secured
    yield chosen
    chosen.end_mounts()


@dataclass
class Seen:
    """What there was to be seen, and who looked."""

    capture: Capture
    marker: bytes
    name: bytes
    secrets: dict[str, bytes]


def copy_in_and_out(cluster: Cluster) -> Seen:
    """Write a file of a random marker, have it durable, forget it, read it again; all under a capture."""
    marker, name = secrets.token_urlsafe(48).encode(), secrets.token_hex(16)
    assert len(marker) == 64
    with Capture(cluster.ports().values()) as capture:
        mount = cluster.mount()
        (mount / name).write_bytes(marker)
        mount.sync()
        mount = cluster.remount_cold(mount)
        assert (mount / name).read_bytes() == marker
        time.sleep(4)  # heartbeats, which carry the join token
    assert capture.dropped == 0
    return Seen(capture, marker, name.encode(), known_secrets(cluster, mount.user))


def known_secrets(cluster: Cluster, user: str) -> dict[str, bytes]:
    """Secrets that were used meanwhile, by name."""
    folder = cluster.home / "secrets"
    found = {"join token": (folder / "join-token").read_bytes().strip()}
    for path in folder.glob(f"user-*-{user}.json"):
        kept = json.loads(path.read_bytes())
        found["password"] = kept["password"].encode()
    assert found.keys() == {"join token", "password"}
    return found


def test_with_tls_nothing_is_in_the_clear_and_without_it_everything_is(either, secured):
    seen = copy_in_and_out(either)
    encrypted = either is secured
    assert seen.capture.size_bytes > 10_000
    assert {
        either.ports()[name] for name in ("auth", "metaserver-1", "metaserver-1.frames")
    } < seen.capture.ports
    wanted = {"marker": seen.marker, "file name": seen.name, "token": TOKEN_HEAD, **seen.secrets}
    shown = {what for what, text in wanted.items() if seen.capture.contains(text)}
    assert shown == (set() if encrypted else set(wanted))


def test_every_port_of_every_server_speaks_tls_and_nothing_else(secured):
    hello = codec.encode_request(FrameType.HELLO, 1, Hello(PROTOCOL_VERSION, "token"))
    request = b"GET /healthz HTTP/1.1\r\nHost: cluster\r\n\r\n"
    trusted = ssl.create_default_context(cafile=secured.home / "ca.pem")
    for name, port in secured.ports().items():
        for said in (hello, request):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
                plain.sendall(said)
                heard = receive_all(plain)
            assert heard[:1] in (b"", b"\x15"), f"{name} answered {heard!r}"  # nothing, or a TLS alert
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        with trusted.wrap_socket(raw, server_hostname="localhost") as encrypted:
            assert encrypted.version() == "TLSv1.3", name


def receive_all(connection: socket.socket) -> bytes:
    heard = b""
    try:
        while data := connection.recv(4096):
            heard += data
    except ConnectionResetError:
        pass
    return heard


def test_no_server_is_reachable_by_old_versions(secured):
    old = ssl.create_default_context(cafile=secured.home / "ca.pem")
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSVersion"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    for name, port in secured.ports().items():
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw, pytest.raises(OSError):
            old.wrap_socket(raw, server_hostname="localhost")
            pytest.fail(f"{name} speaks an old version")


def as_seen_by_a_stranger(secured: Cluster, folder: Path, report: Report, **changes: object) -> Path:
    """A copy of what a client knows of the cluster, altered."""
    folder.mkdir()
    shutil.copy(secured.home / "ca.pem", folder)
    (folder / "cluster.json").write_text(json.dumps(report | changes))
    return folder


def refused(cluster: Cluster, folder: Path, tmp_path: Path) -> str:
    """What a mount by what ``folder`` says is answered, within a few seconds."""
    home, cluster.home = cluster.home, folder
    started = time.monotonic()
    try:
        done = cluster.try_mount("somebody", tmp_path / "cache", tmp_path / "m")
    finally:
        cluster.home = home
    assert done.returncode != 0
    assert time.monotonic() - started < 15, "it was tried again and again"
    assert "Traceback" not in done.stderr
    return done.stderr.strip()


def test_a_client_with_another_ca_fails_at_once_and_says_why(secured, tmp_path):
    folder = as_seen_by_a_stranger(secured, tmp_path / "c", secured.report)
    (folder / "ca.pem").write_text(Authority().pem)
    said = refused(secured, folder, tmp_path)
    assert "not from this cluster's CA" in said
    assert "\n" not in said


def test_a_client_without_the_ca_is_told_that_the_servers_speak_tls(secured, tmp_path):
    plain_url = secured.report["auth_url"].replace("https:", "http:")
    folder = as_seen_by_a_stranger(secured, tmp_path / "c", secured.report, ca=None, auth_url=plain_url)
    assert "speaks TLS" in refused(secured, folder, tmp_path)


def test_a_client_with_a_ca_is_not_let_down_to_plain_text(cluster, secured, tmp_path):
    as_https = cluster.report["auth_url"].replace("http:", "https:")
    folder = as_seen_by_a_stranger(secured, tmp_path / "c", cluster.report, ca="ca.pem", auth_url=as_https)
    assert "plain text where TLS is expected" in refused(cluster, folder, tmp_path)
    downgraded = as_seen_by_a_stranger(secured, tmp_path / "d", cluster.report, ca="ca.pem")
    assert "TLS" in refused(cluster, downgraded, tmp_path)


def test_a_mount_over_tls_survives_the_end_of_every_server(secured):
    mount = secured.mount()
    content = secrets.token_bytes(3_000_000)
    (mount / "a").write_bytes(content)
    mount.sync()
    for name in ("auth", "metaserver-1", secured.chunkservers()[0]):
        secured.kill(name)
    secured.up()
    (mount / "b").write_bytes(content)
    mount.sync()
    mount = secured.remount_cold(mount)
    assert (mount / "a").read_bytes() == (mount / "b").read_bytes() == content
    secured.end_mounts()
