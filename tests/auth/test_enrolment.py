"""A new storage host: its one-time code, its certificate, and what the certificate is good for."""

import asyncio
import ipaddress
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloudverge_auth.certificates import Authority
from cloudverge_protocol.errors import Code, ProtocolFault

FIXED = {"code": "UNAUTHORIZED", "message": "a valid token is required"}
NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def trust():
    return trustme.CA()


def key_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def request_of(key, name="anything"):
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def authority_of(trust):
    return Authority(trust.cert_pem.bytes(), trust.private_key_pem.bytes())


KEYS = {
    "EC": lambda: ec.generate_private_key(ec.SECP256R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("host", ["store7.example", "10.1.2.3", "fd00::7"])
def test_a_certificate_is_for_that_host_and_key_and_for_a_server(trust, kind, host):
    key = KEYS[kind]()
    pem = authority_of(trust).sign(request_of(key), host, "store 7", NOW)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(trust.cert_pem.bytes()))
    assert certificate.public_key() == key.public_key()
    extensions = {type(each.value): each.value for each in certificate.extensions}
    (name,) = extensions[x509.SubjectAlternativeName]
    assert str(name.value) == str(ipaddress.ip_address(host) if ":" in host or host[0] == "1" else host)
    assert not extensions[x509.BasicConstraints].ca
    usage = extensions[x509.KeyUsage]
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (True, False, False)
    assert set(extensions[x509.ExtendedKeyUsage]) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    assert certificate.not_valid_before_utc < NOW
    assert NOW + timedelta(days=364) < certificate.not_valid_after_utc <= NOW + timedelta(days=366)
    (common,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert common.value == "store 7"


def test_a_certificate_does_not_outlive_its_ca(trust):
    ca = x509.load_pem_x509_certificate(trust.cert_pem.bytes())
    late = ca.not_valid_after_utc - timedelta(days=5)
    pem = authority_of(trust).sign(request_of(KEYS["EC"]()), "a.example", "", late)
    assert x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc == ca.not_valid_after_utc


def tampered():
    pem = request_of(KEYS["EC"]())
    der = bytearray(x509.load_pem_x509_csr(pem.encode()).public_bytes(serialization.Encoding.DER))
    der[der.index(b"anything")] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()


BAD_REQUESTS = {
    "nothing": lambda: "",
    "no PEM": lambda: "hello",
    "a certificate": lambda: trustme.CA().cert_pem.bytes().decode(),
    "a broken PEM": lambda: request_of(KEYS["EC"]()).replace("M", "N"),
    "not signed by its key": tampered,
    "a short RSA key": lambda: request_of(rsa.generate_private_key(65537, 1024)),
    "a DSA key": lambda: request_of(dsa.generate_private_key(2048)),
    "a surrogate": lambda: "\ud800",
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_what_is_no_good_request_is_refused(trust, what):
    with pytest.raises(ProtocolFault) as caught:
        authority_of(trust).sign(BAD_REQUESTS[what](), "a.example", "", NOW)
    assert caught.value.code == Code.BAD_REQUEST


def test_a_key_of_another_ca_is_noticed_at_start(trust):
    with pytest.raises(ProtocolFault, match="not the one of its certificate"):
        Authority(trust.cert_pem.bytes(), trustme.CA().private_key_pem.bytes())
    with pytest.raises(ProtocolFault, match="not PEM"):
        Authority(trust.cert_pem.bytes(), b"x")


def test_the_key_is_in_no_repr(trust):
    assert "PRIVATE" not in repr(authority_of(trust))


@pytest.fixture
async def tls_auth(start_auth, trust, tmp_path):
    ca, key = tmp_path / "ca.pem", tmp_path / "ca.key"
    trust.cert_pem.write_to_path(ca)
    key.touch(0o600)
    trust.private_key_pem.write_to_path(key)
    return await start_auth(tls_ca=ca, ca_key_file=key, metaserver_url="https://meta.example")


async def code_of(auth):
    answer = await auth.as_server("POST", "/v1/nodes")
    assert answer.status_code == 200
    return answer.json()["code"]


@pytest.mark.anyio
class TestEnrolling:
    """Over HTTP."""

    async def test_a_code_gets_all_a_storage_host_needs(self, tls_auth, trust):
        before = datetime.now(UTC).timestamp()
        answer = (await tls_auth.as_server("POST", "/v1/nodes")).json()
        assert 29 * 60 < answer["until"] - before <= 30 * 60 + 1
        key = KEYS["EC"]()
        body = {"code": answer["code"], "csr": request_of(key), "host": "10.0.0.7", "name": "store7"}
        enrolled = await tls_auth.post("/v1/enrol", **body)
        assert enrolled.status_code == 200
        given = enrolled.json()
        assert (
            x509.load_pem_x509_certificate(given.pop("certificate").encode()).public_key() == key.public_key()
        )
        assert given == {
            "ca": trust.cert_pem.bytes().decode(), "join_token": tls_auth.join_token,
            "metaserver_url": "https://meta.example", "cluster": tls_auth.cluster,
        }  # fmt: skip
        assert (await tls_auth.http.get("/v1/ca")).json() == {"ca": given["ca"]}

    async def test_a_code_is_good_once_however_many_try(self, tls_auth):
        code = await code_of(tls_auth)
        body = {"code": code, "csr": request_of(KEYS["EC"]()), "host": "a.example"}
        answers = await asyncio.gather(*(tls_auth.post("/v1/enrol", **body) for _ in range(6)))
        assert sorted(answer.status_code for answer in answers) == [200] + [401] * 5
        assert all(answer.json() == FIXED for answer in answers if answer.status_code == 401)

    async def test_old_and_unknown_codes_get_the_one_refusal_whatever_the_request(self, tls_auth):
        old = await code_of(tls_auth)
        await tls_auth.sql("update enrolments set until = now()")
        for code in (old, "", "x"):
            for csr in (request_of(KEYS["EC"]()), "nonsense"):
                answer = await tls_auth.post("/v1/enrol", code=code, csr=csr, host="a.example")
                assert (answer.status_code, answer.json()) == (401, FIXED)

    async def test_a_bad_request_leaves_the_code_unused(self, tls_auth):
        code = await code_of(tls_auth)
        answer = await tls_auth.post("/v1/enrol", code=code, csr="nonsense", host="a.example")
        assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST")
        body = {"code": code, "csr": request_of(KEYS["EC"]()), "host": "a.example"}
        assert (await tls_auth.post("/v1/enrol", **body)).status_code == 200

    @pytest.mark.parametrize(
        "host",
        ["", "a b", "-a", "a/b", "*.example", "a\n", "x" * 254, ":", "::g", "1::2::3", "a..b", "1.2.3.456"],
    )
    async def test_what_is_no_host_gets_no_certificate(self, tls_auth, host):
        body = {"code": await code_of(tls_auth), "csr": request_of(KEYS["EC"]()), "host": host}
        assert (await tls_auth.post("/v1/enrol", **body)).status_code == 400

    async def test_codes_are_stored_as_hashes_only(self, tls_auth):
        code = await code_of(tls_auth)
        assert code not in await tls_auth.sql("select string_agg(t::text, ' ') from enrolments t")

    async def test_a_cluster_without_a_ca_enrols_without_certificates(self, auth):
        body = {"code": await code_of(auth), "csr": request_of(KEYS["EC"]()), "host": "127.0.0.1"}
        given = (await auth.post("/v1/enrol", **body)).json()
        assert (given["certificate"], given["ca"], given["join_token"]) == ("", "", auth.join_token)
        assert (await auth.http.get("/v1/ca")).json() == {"ca": ""}

    async def test_a_server_without_the_cas_key_says_so_and_keeps_the_code(self, start_auth, trust, tmp_path):
        trust.cert_pem.write_to_path(tmp_path / "ca.pem")
        auth = await start_auth(tls_ca=tmp_path / "ca.pem")
        for _ in range(2):
            body = {
                "code": (code := await code_of(auth)),
                "csr": request_of(KEYS["EC"]()),
                "host": "a.example",
            }
            answer = await auth.post("/v1/enrol", **body)
            assert (answer.status_code, answer.json()["code"]) == (409, "NOT_SUPPORTED")
        assert await auth.sql("select used_at is null from enrolments where until is not null limit 1"), code

    @pytest.mark.parametrize("host", ["auth.example", "META.example", "10.9.9.9"])
    async def test_a_storage_host_gets_no_certificate_for_auths_or_the_metaservers_address(
        self, start_auth, host
    ):
        auth = await start_auth(
            host="auth.example",
            metaserver="meta.example:7421",
            metaserver_url="https://10.9.9.9:1",
            insecure=True,
        )
        body = {"code": await code_of(auth), "csr": request_of(KEYS["EC"]()), "host": host}
        answer = await auth.post("/v1/enrol", **body)
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID")
        assert (await auth.post("/v1/enrol", **body | {"host": "store.example"})).status_code == 200

    async def test_a_cas_key_that_is_open_to_others_is_refused(self, start_auth, trust, tmp_path):
        trust.cert_pem.write_to_path(tmp_path / "ca.pem")
        trust.private_key_pem.write_to_path(tmp_path / "ca.key")
        (tmp_path / "ca.key").chmod(0o640)
        with pytest.raises(ProtocolFault, match="chmod 600"):
            await start_auth(tls_ca=tmp_path / "ca.pem", ca_key_file=tmp_path / "ca.key")


def test_a_tls_client_that_trusts_the_ca_accepts_the_certificate_for_its_host_only(trust, tmp_path):
    key = KEYS["EC"]()
    (tmp_path / "key.pem").write_bytes(key_pem(key))
    (tmp_path / "cert.pem").write_text(authority_of(trust).sign(request_of(key), "127.0.0.1", "", NOW))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.configure_trust(client)
    for name, right in (("127.0.0.1", True), ("127.0.0.2", False), ("a.example", False)):
        ours, theirs = socket.socketpair()

        def serve(end=theirs):
            try:
                server.wrap_socket(end, server_side=True).close()
            except (ssl.SSLError, OSError):
                end.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            if right:
                client.wrap_socket(ours, server_hostname=name).close()
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    client.wrap_socket(ours, server_hostname=name)
        finally:
            ours.close()
            thread.join()
