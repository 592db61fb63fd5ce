"""``cv join``: a storage host believes nothing but what hangs together from the fingerprint it was given."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cloudverge_chunkserver.enrolment import fetch_authority
from cloudverge_chunkserver.joining import Wanted, server_command, settle
from cloudverge_chunkserver.nodefolder import NodeFolder
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, ProtocolFault, Refused, Unavailable
from tests.fixtures.chunkprocess import JOIN_TOKEN, Registrar
from tests.fixtures.enroller import Authority, Enroller

CV = Path(sys.executable).with_name("cv")
HOST = "127.0.0.1"


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def enroller(authority: Authority, tmp_path: Path) -> Iterator[Enroller]:
    with Enroller(authority, tmp_path) as made:
        yield made


@pytest.fixture
def place(tmp_path: Path) -> NodeFolder:
    return NodeFolder(tmp_path / "node")


@pytest.fixture
def line(enroller: Enroller) -> Wanted:
    """What cv add-node printed."""
    return Wanted(enroller.url, "code-one", enroller.authority.fingerprint)


def with_(line: Wanted, **changes: str) -> Wanted:
    values = {name: getattr(line, name) for name in line.__struct_fields__}
    return Wanted(**(values | changes))


def paths(enroller: Enroller) -> list[str]:
    return [path for path, _ in enroller.asked]


# --- enrolling ----------------------------------------------------------------------------------------


def test_the_first_time_it_enrols_and_keeps_what_it_was_given_to_itself(place, line, enroller):
    node = settle(place, line)
    assert (node.cluster, node.host, node.metaserver_url) == ("c" * 32, HOST, enroller.metaserver_url)
    assert place.join_token.read_text() == JOIN_TOKEN
    assert place.authority.read_text() == enroller.authority.pem
    assert place.root.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in place.root.iterdir()} == {0o600}
    assert paths(enroller) == ["/v1/ca", "/v1/enrol"]


def test_the_key_never_leaves_this_machine(place, line, enroller):
    settle(place, line)
    key = "".join(place.key.read_text().split("\n")[1:-2])
    assert key not in json.dumps(enroller.asked)


def test_joining_again_asks_nobody(place, line, enroller):
    first = settle(place, line)
    enroller.asked.clear()
    assert settle(place, line) == settle(place, Wanted()) == first
    assert enroller.asked == []


def test_a_certificate_that_runs_out_is_renewed_with_a_fresh_code_and_served_until_then(
    place, line, enroller, capsys
):
    enroller.certificate_age_days = 340
    first = settle(place, line)
    assert settle(place, Wanted()) == first
    assert "runs out soon" in capsys.readouterr().err
    enroller.certificate_age_days, before = 0, place.certificate.read_text()
    key = place.key.read_bytes()
    enroller.codes.add("code-two")
    assert settle(place, with_(line, code="code-two")) == first
    assert place.certificate.read_text() != before
    assert place.key.read_bytes() == key


def test_another_address_needs_another_certificate(place, line, enroller):
    settle(place, line)
    with pytest.raises(Refused, match="take a new code"):
        settle(place, Wanted(listen="127.0.0.2"))
    enroller.codes.add("code-two")
    moved = settle(place, with_(line, code="code-two", listen="127.0.0.2"))
    assert moved.host == "127.0.0.2"


# --- what is not believed -----------------------------------------------------------------------------


def test_a_server_with_another_authority_is_sent_no_code(place, line, enroller):
    with pytest.raises(Denied, match="somebody stands between"):
        settle(place, with_(line, fingerprint="0" * 64))
    assert paths(enroller) == ["/v1/ca"]
    assert not place.root.exists()


def test_a_server_that_only_shows_the_right_authority_is_sent_no_code(place, line, authority, tmp_path):
    with Enroller(Authority(), tmp_path) as imposter:
        real = authority.pem
        imposter.spoil = lambda said: {**said, "ca": real}
        with pytest.raises(Unavailable, match="certificate"):
            settle(place, with_(line, url=imposter.url))
        assert paths(imposter) == ["/v1/ca"]


def test_a_code_that_was_used_is_refused_with_what_to_do(place, line, tmp_path):
    settle(place, line)
    with pytest.raises(Denied, match="cv add-node"):
        settle(NodeFolder(tmp_path / "second"), line)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("another authority", "not from this cluster's CA"),
        ("another key", "another key"),
        ("another name", "address"),
    ],
)
def test_a_certificate_that_is_not_for_us_is_not_taken(place, line, enroller, what, message):
    other = Authority()

    def spoil(said: dict[str, object]) -> dict[str, object]:
        if "certificate" not in said:
            return said
        ours = place.ensure_key().public_key()
        made = {
            "another authority": lambda: other.certify(ours, [HOST]),
            "another key": lambda: enroller.authority.certify(other.key.public_key(), [HOST]),
            "another name": lambda: enroller.authority.certify(ours, ["192.0.2.1"]),
        }[what]()
        return {**said, "certificate": made}

    enroller.spoil = spoil
    with pytest.raises(ProtocolFault, match=message):
        settle(place, line)
    assert place.load() is None
    assert not place.join_token.exists()


def test_a_metaserver_without_tls_is_not_taken(place, line, enroller):
    enroller.metaserver_url = "http://127.0.0.1:1"
    with pytest.raises(ProtocolFault, match="without TLS"):
        settle(place, line)


@pytest.mark.parametrize("ca", ["", "no certificate"])
def test_an_auth_that_shows_no_authority_is_told_as_such(place, line, enroller, ca):
    enroller.spoil = lambda said: {"ca": ca}
    with pytest.raises(ProtocolFault, match="no certificate authority"):
        settle(place, line)


def test_nobody_enrols_in_plain_text():
    with pytest.raises(ProtocolFault, match="https only"):
        fetch_authority("http://127.0.0.1:1", "0" * 64)


def test_a_folder_belongs_to_one_cluster(place, line, tmp_path):
    settle(place, line)
    with Enroller(Authority("d" * 32), tmp_path) as other:
        with pytest.raises(Denied, match="another --dir"):
            settle(place, Wanted(other.url, "code-one", other.authority.fingerprint))
        assert paths(other) == ["/v1/ca"]


def test_a_cluster_that_has_moved_is_joined_again_with_a_fresh_code(
    place, line, enroller, authority, tmp_path
):
    first = settle(place, line)
    with Enroller(authority, tmp_path, "https://127.0.0.1:10") as moved:
        node = settle(place, with_(line, url=moved.url))
    assert (node.auth_url, node.metaserver_url) == (moved.url, "https://127.0.0.1:10")
    assert (node.port, node.frame_port) == (first.port, first.frame_port)


def test_without_the_line_a_new_host_is_told_to_ask_for_it(place):
    with pytest.raises(Refused, match="cv add-node"):
        settle(place, Wanted())


def test_a_fingerprint_may_be_written_as_others_write_it(enroller):
    digits = enroller.authority.fingerprint.upper()
    colons = ":".join(digits[at : at + 2] for at in range(0, 64, 2))
    assert fetch_authority(enroller.url, colons) == enroller.authority.pem


# --- serving ------------------------------------------------------------------------------------------


@pytest.fixture
def registrar(authority: Authority, enroller: Enroller, tmp_path: Path) -> Iterator[Registrar]:
    """The cluster's metaserver."""
    with Registrar(tls=authority.server_context(tmp_path)) as made:
        enroller.metaserver_url = made.url
        yield made


def end(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_it_serves_over_tls_in_the_background_and_again_after_its_end(place, line, registrar):
    command = [CV, "join", line.url, line.code, "--fingerprint", line.fingerprint, "--dir", place.root]
    pids = []
    for arguments in ([*command, "--background"], [CV, "join", "--dir", place.root, "--background"]):
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        facts = json.loads(place.ready.read_text())
        pids.append(facts["pid"])
        try:
            assert str(facts["pid"]) in done.stdout
            shown = Path(f"/proc/{facts['pid']}/cmdline").read_text()
            assert line.code not in shown
            assert JOIN_TOKEN not in shown
            trusted = ssl.create_default_context(cafile=place.authority)
            answer = httpx.get(f"{facts['http']}/healthz", verify=trusted, trust_env=False)
            assert answer.status_code == 200
        finally:
            end(facts["pid"])
    first, second = registrar.registered
    assert {key: first[key] for key in ("server_uuid", "host", "frame_port", "http_url")} == {
        key: second[key] for key in ("server_uuid", "host", "frame_port", "http_url")
    }
    assert str(first["http_url"]).startswith(f"https://{HOST}:")
    assert len(set(pids)) == 2


def test_in_the_foreground_the_command_becomes_the_server(place, line, registrar):
    command = [CV, "join", line.url, line.code, "--fingerprint", line.fingerprint, "--dir", place.root]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while not place.ready.exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        assert json.loads(place.ready.read_text())["pid"] == process.pid
    finally:
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"joined cluster" in said


def test_a_metaserver_of_another_authority_gets_no_join_token(place, line, enroller, tmp_path):
    with Registrar(tls=Authority().server_context(tmp_path)) as stranger:
        enroller.metaserver_url = stranger.url
        node = settle(place, line)
        process = subprocess.Popen(server_command(place, node), stderr=subprocess.PIPE)
        time.sleep(2.5)
        process.terminate()
        process.communicate(timeout=20)
        assert stranger.registered == []


def test_errors_are_one_line(place, line):
    command = [CV, "join", line.url, "no-such-code", "--fingerprint", line.fingerprint, "--dir", place.root]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert isinstance(Denied(Code.UNAUTHORIZED), CloudVergeError)
