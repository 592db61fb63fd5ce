"""The cluster's CA and its servers' certificates: made once, renewed in time, never replaced silently."""

import datetime
import socket
import ssl

import pytest
from cryptography import x509

from cloudverge_embedded.certificates import ensure_certificates, fingerprint
from cloudverge_embedded.settings import Wish, settle
from cloudverge_protocol.errors import CloudVergeError, Refused

NOW = datetime.datetime.now(datetime.UTC)
CLUSTER = settle(None, Wish(chunkservers=1, tls=True), "c" * 32, external_database=False)
SERVERS = ["auth", "metaserver-1", "chunkserver-1"]


def later(days: float) -> datetime.datetime:
    return NOW + datetime.timedelta(days=days)


def certificate(folder, name: str = "auth") -> x509.Certificate:
    return x509.load_pem_x509_certificate(folder.certificate(name).read_bytes())


def names_in(found: x509.Certificate) -> set[str]:
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


@pytest.fixture
def made(folder):
    """A folder with certificates as of now."""
    assert ensure_certificates(folder, CLUSTER, NOW) == SERVERS
    return folder


def test_every_server_has_a_certificate_for_the_names_it_is_reached_by(made):
    for name in SERVERS:
        assert names_in(certificate(made, name)) == {"127.0.0.1", "::1", "localhost", socket.gethostname()}
        context = ssl.create_default_context(cafile=made.ca_certificate)
        context.load_cert_chain(made.certificate(name), made.certificate_key(name))


def test_keys_are_for_their_owner_only_and_the_authority_is_for_everybody(made):
    keys = [made.ca_key, *(made.certificate_key(name) for name in SERVERS)]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    assert made.ca_certificate.stat().st_mode & 0o777 == 0o644
    assert len({key.read_bytes() for key in keys}) == len(keys)


def test_nothing_is_made_again_while_it_is_good(made):
    before = {path: path.read_bytes() for path in made.secrets.iterdir()}
    assert ensure_certificates(made, CLUSTER, later(300)) == []
    assert {path: path.read_bytes() for path in made.secrets.iterdir()} == before


def test_a_certificate_that_runs_out_soon_is_renewed_with_the_same_key_and_authority(made):
    authority, key = made.ca_certificate.read_bytes(), made.certificate_key("auth").read_bytes()
    assert ensure_certificates(made, CLUSTER, later(336)) == SERVERS
    assert certificate(made).not_valid_after_utc > later(600)
    assert (made.ca_certificate.read_bytes(), made.certificate_key("auth").read_bytes()) == (authority, key)


def test_another_address_and_more_servers_get_certificates(made):
    moved = settle(CLUSTER, Wish(listen="192.0.2.7"), "", external_database=False)
    assert ensure_certificates(made, moved, NOW) == SERVERS
    assert "192.0.2.7" in names_in(certificate(made))
    grown = settle(moved, Wish(chunkservers=2), "", external_database=False)
    assert ensure_certificates(made, grown, NOW) == ["chunkserver-2"]


def test_a_certificate_whose_key_was_lost_is_made_anew(made):
    made.certificate_key("auth").unlink()
    assert ensure_certificates(made, CLUSTER, NOW) == ["auth"]


def test_an_authority_whose_key_is_lost_is_not_replaced(made):
    before = made.ca_certificate.read_bytes()
    made.ca_key.unlink()
    with pytest.raises(Refused, match=r"ca\.key is missing"):
        ensure_certificates(made, CLUSTER, NOW)
    assert made.ca_certificate.read_bytes() == before


def test_a_start_interrupted_after_the_authoritys_key_goes_on_with_it(made):
    key = made.ca_key.read_bytes()
    made.ca_certificate.unlink()
    ensure_certificates(made, CLUSTER, NOW)
    assert made.ca_key.read_bytes() == key
    assert (
        certificate(made).issuer == x509.load_pem_x509_certificate(made.ca_certificate.read_bytes()).subject
    )


def test_certificates_of_another_authority_are_replaced(made, tmp_path):
    made.ca_key.unlink()
    made.ca_certificate.unlink()
    assert ensure_certificates(made, CLUSTER, NOW) == SERVERS


@pytest.mark.parametrize("name", ["ca_key", "ca_certificate"])
def test_a_damaged_file_is_an_error_that_names_it(made, name):
    getattr(made, name).write_text("damaged")
    with pytest.raises(CloudVergeError, match=str(getattr(made, name))):
        ensure_certificates(made, CLUSTER, NOW)


def test_the_authority_vouches_for_servers_only(made):
    found = x509.load_pem_x509_certificate(made.ca_certificate.read_bytes())
    limits = found.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (limits.ca, limits.path_length) == (True, 0)
    of_server = certificate(made).extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not of_server.ca
    assert len(fingerprint(made.ca_certificate.read_bytes())) == 64
