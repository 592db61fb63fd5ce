"""``cv add-node``: one line, for one machine, that leads nowhere else."""

import msgspec
import pytest

from cloudverge_embedded.atomicfile import write_json
from cloudverge_embedded.certificates import ensure_certificates
from cloudverge_embedded.nodes import join_line
from cloudverge_embedded.settings import Wish, settle
from cloudverge_protocol.errors import Denied, Refused, Unavailable
from tests.fixtures.chunkprocess import JOIN_TOKEN
from tests.fixtures.enroller import Authority, Enroller

LISTENING = settle(None, Wish(listen="127.0.0.1"), "c" * 32, external_database=False)


@pytest.fixture
def enroller(folder, tmp_path):
    """The auth of the cluster in ``folder``, which runs."""
    authority = Authority()
    with Enroller(authority, tmp_path) as made:
        LISTENING.save(folder)
        folder.ca_certificate.write_text(authority.pem)
        folder.join_token.write_text(JOIN_TOKEN)
        write_json(folder.cluster_file, {"auth_url": made.url, "ca": "ca.pem", "supervisor_pid": 1})
        yield made


def test_the_line_names_the_cluster_a_code_and_the_authority(folder, enroller):
    assert (
        join_line(folder) == f"cv join {enroller.url} code-two --fingerprint {enroller.authority.fingerprint}"
    )
    assert enroller.asked == [("/v1/nodes", {})]


def test_a_stranger_on_auths_port_is_not_sent_the_join_token(folder, enroller):
    folder.ca_certificate.write_text(Authority().pem)
    with pytest.raises(Unavailable, match="certificate"):
        join_line(folder)
    assert enroller.asked == []


def test_a_join_token_that_auth_does_not_know_is_told(folder, enroller):
    folder.join_token.write_text("another")
    with pytest.raises(Denied, match="401"):
        join_line(folder)


def test_a_cluster_for_this_machine_only_says_how_to_open_it(folder, enroller):
    msgspec.structs.replace(LISTENING, listen="").save(folder)
    with pytest.raises(Refused, match="cv up --listen"):
        join_line(folder)


def test_a_cluster_that_does_not_run_says_so(folder):
    with pytest.raises(Unavailable, match="cv up"):
        join_line(folder)
    LISTENING.save(folder)
    ensure_certificates(folder, LISTENING)
    with pytest.raises(Unavailable, match="cv up"):
        join_line(folder)
