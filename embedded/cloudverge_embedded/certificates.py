"""The cluster's certificate authority, and a certificate for each server: who they are to callers and to each other.

The authority is made once; its key never leaves ``secrets`` and goes to auth only, which enrols storage hosts with it.
A server keeps its key; its certificate is made anew when it runs out soon, names other addresses than it should, or
is another authority's. So a renewal changes one file in one step, under a server that runs.

An authority whose key is lost is never replaced silently: clients and storage hosts have pinned it.
"""

import datetime
import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloudverge_embedded.atomicfile import read_optional, write_atomically
from cloudverge_embedded.folder import Folder
from cloudverge_embedded.settings import LOOPBACK, Settings, server_names
from cloudverge_protocol.errors import Code, ProtocolFault, Refused

CA_DAYS: Final = 20 * 365
CERTIFICATE_DAYS: Final = 365
RENEW_WITHIN_DAYS: Final = 30
CLOCK_SLACK: Final = datetime.timedelta(days=1)  # other machines' clocks may be behind

Key = ec.EllipticCurvePrivateKey
Certificate = x509.Certificate


def ensure_certificates(
    folder: Folder, settings: Settings, now: datetime.datetime | None = None
) -> list[str]:
    """Make the authority and what is missing or due of the servers' certificates; the names of those made now."""
    now = now or datetime.datetime.now(datetime.UTC)
    authority = _Authority.load(folder) or _Authority.make(folder, settings.cluster, now)
    names = {settings.host, LOOPBACK, "::1", "localhost", socket.gethostname()}
    return [name for name in server_names(settings) if _ensure(folder, name, authority, names, now)]


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate in PEM, in hexadecimal: how people tell it from another."""
    return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()


class _Authority:
    def __init__(self, key: Key, certificate: Certificate) -> None:
        self.key, self.certificate = key, certificate

    @classmethod
    def load(cls, folder: Folder) -> "_Authority | None":
        """The one there is; None if there is none yet."""
        pem = read_optional(folder.ca_certificate)
        if pem is None:
            return None
        key = read_optional(folder.ca_key)
        if key is None:
            raise Refused(
                Code.NOT_FOUND,
                f"{folder.ca_key} is missing, which belongs to {folder.ca_certificate}: restore it from a backup "
                "(or remove the latter: a new CA is made, and every storage host and device must be joined anew)",
            )
        return cls(_load_key(folder.ca_key, key), _load_certificate(folder.ca_certificate, pem))

    @classmethod
    def make(cls, folder: Folder, cluster: str, now: datetime.datetime) -> "_Authority":
        """A new one. A key without its certificate is left of an interrupted start, and used."""
        key = _ensure_key(folder.ca_key)
        certificate = make_authority(key, cluster, now)
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        write_atomically(folder.ca_certificate, pem, 0o644)
        return cls(key, certificate)


def make_authority(key: Key, cluster: str, now: datetime.datetime) -> Certificate:
    """A certificate by which ``key`` vouches for servers, and for no other authority."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CloudVerge cluster {cluster}")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = _builder(name, name, key.public_key(), now, CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    return builder.sign(key, hashes.SHA256())


def issue(
    authority: Certificate,
    authority_key: Key,
    public_key: ec.EllipticCurvePublicKey,
    names: Iterable[str],
    now: datetime.datetime,
) -> Certificate:
    """A certificate for a server that is reached by ``names`` (addresses or host names)."""
    wanted = sorted(names)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted[0][:64])])
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    builder = _builder(subject, authority.subject, public_key, now, CERTIFICATE_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName(map(general_name, wanted)), critical=False)
    builder = builder.add_extension(purposes, critical=False)
    return builder.add_extension(by, critical=False).sign(authority_key, hashes.SHA256())


def general_name(name: str) -> x509.GeneralName:
    """An address as an address, anything else as a host name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def is_good(
    certificate: Certificate, authority: Certificate, key: Key, names: Iterable[str], now: datetime.datetime
) -> bool:
    """Whether a server may go on with its certificate. Pure."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    left = certificate.not_valid_after_utc - now
    if left < datetime.timedelta(days=RENEW_WITHIN_DAYS) or now < certificate.not_valid_before_utc:
        return False
    if certificate.public_key() != key.public_key():
        return False
    held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(map(general_name, names)) <= set(held)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    days: int,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - CLOCK_SLACK)
    builder = builder.not_valid_after(now + datetime.timedelta(days=days))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)


def _ensure(
    folder: Folder, name: str, authority: _Authority, names: set[str], now: datetime.datetime
) -> bool:
    key = _ensure_key(folder.certificate_key(name))
    path = folder.certificate(name)
    pem = read_optional(path)
    if pem is not None and is_good(_load_certificate(path, pem), authority.certificate, key, names, now):
        return False
    made = issue(authority.certificate, authority.key, key.public_key(), names, now)
    write_atomically(path, made.public_bytes(serialization.Encoding.PEM))
    return True


def _ensure_key(path: Path) -> Key:
    content = read_optional(path)
    if content is not None:
        return _load_key(path, content)
    key = ec.generate_private_key(ec.SECP256R1())
    plain = serialization.NoEncryption()  # the file's mode protects it
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    write_atomically(path, pem)
    return key


def _load_key(path: Path, content: bytes) -> Key:
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ProtocolFault(
            Code.BAD_REQUEST, f"{path} is damaged: it holds no private key that CloudVerge made"
        )
    return key


def _load_certificate(path: Path, content: bytes) -> Certificate:
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError:
        raise ProtocolFault(Code.BAD_REQUEST, f"{path} is damaged: it holds no certificate") from None
