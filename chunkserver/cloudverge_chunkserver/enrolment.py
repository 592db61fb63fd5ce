"""Becoming a storage host of a cluster elsewhere: what is asked of its auth, and what is believed of the answers.

Nothing is believed but what hangs together from the fingerprint that the operator gave: the authority's certificate
has it; auth proves itself by that authority before the one-time code is sent; and what it sends back must be a
certificate of the same authority for the key that was made here. The key never leaves this machine.
"""

import ipaddress
import ssl
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloudverge_protocol.errors import CloudVergeError, Code, Denied, ProtocolFault, Unavailable, make_error
from cloudverge_protocol.refusals import read_refusal

TIMEOUT_S: Final = 20.0

Key = ec.EllipticCurvePrivateKey


class Enrolled(msgspec.Struct, frozen=True):
    """What auth gives a new storage host. The join token is secret."""

    certificate: str
    ca: str
    join_token: str
    metaserver_url: str
    cluster: str

    def __repr__(self) -> str:
        return f"Enrolled(cluster={self.cluster!r})"


class _Authority(msgspec.Struct):
    ca: str = ""


def fetch_authority(url: str, fingerprint: str) -> str:
    """The cluster's CA certificate in PEM, if it is the one with this fingerprint."""
    if urlsplit(url).scheme != "https":
        raise ProtocolFault(Code.BAD_REQUEST, f"{url}: a storage host is enrolled over https only")
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE  # the fingerprint is what counts
    pem = msgspec.json.decode(_ask(anybody, "GET", f"{url}/v1/ca"), type=_Authority).ca
    found = _load(pem, url).fingerprint(hashes.SHA256()).hex()
    if found != fingerprint.replace(":", "").strip().lower():
        raise Denied(
            Code.FORBIDDEN,
            f"{url} shows another authority ({found}) than the one you were told of: it is another cluster, or "
            "somebody stands between; nothing was sent",
        )
    return pem


def enrol(url: str, authority: str, code: str, key: Key, host: str, name: str) -> Enrolled:
    """Trade the one-time code for a certificate and the join token."""
    trusted = ssl.create_default_context(cadata=authority)
    body = {"code": code, "csr": make_request(key, host, name), "host": host, "name": name}
    answer = _ask(trusted, "POST", f"{url}/v1/enrol", body)
    try:
        enrolled = msgspec.json.decode(answer, type=Enrolled)
    except msgspec.DecodeError as error:
        raise ProtocolFault(Code.BAD_REQUEST, f"{url} answered oddly to /v1/enrol: {error}") from None
    check_certificate(enrolled.certificate, authority, key, host)
    if urlsplit(enrolled.metaserver_url).scheme != "https":
        raise ProtocolFault(
            Code.BAD_REQUEST, f"{url} names a metaserver without TLS: {enrolled.metaserver_url}"
        )
    return enrolled


def make_request(key: Key, host: str, name: str) -> str:
    """A request for a certificate (PEM)."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64] or host[:64])])
    names = x509.SubjectAlternativeName([general_name(host)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def check_certificate(certificate: str, authority: str, key: Key, host: str) -> None:
    """Raise ProtocolFault unless ``certificate`` is the authority's, for our key and our address."""
    ours, by = _load(certificate, "the certificate"), _load(authority, "the authority")
    try:
        ours.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        raise ProtocolFault(Code.WRONG_CLUSTER, "the certificate is not from this cluster's CA") from None
    if ours.public_key() != key.public_key():
        raise ProtocolFault(Code.BAD_REQUEST, "the certificate is for another key than this machine's")
    if general_name(host) not in names_in(ours):
        raise ProtocolFault(Code.BAD_REQUEST, f"the certificate does not name this machine's address {host}")


def names_in(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """The addresses and host names that a certificate is for."""
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def general_name(name: str) -> x509.GeneralName:
    """An address as an address, anything else as a host name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _ask(tls: ssl.SSLContext, method: str, url: str, body: dict[str, Any] | None = None) -> bytes:
    try:
        with httpx.Client(verify=tls, timeout=TIMEOUT_S, trust_env=False) as http:
            answer = http.request(method, url, json=body)
    except httpx.HTTPError as error:
        raise Unavailable(Code.UNREACHABLE, f"{url} cannot be reached: {error}") from None
    if answer.is_error:
        raise _refusal(answer)
    return answer.content


def _refusal(answer: httpx.Response) -> CloudVergeError:
    said = read_refusal(answer.content)
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return Denied(
            Code.UNAUTHORIZED,
            "the code is not valid (any more): it is good once and for 30 minutes; cv add-node",
        )
    code = said.code or Code.UNAVAILABLE
    return make_error(code, f"{answer.url} answered {answer.status_code}: {said.message}")


def _load(pem: str, whose: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise ProtocolFault(
            Code.BAD_REQUEST, f"{whose} shows no certificate authority: TLS is not on there"
        ) from None
