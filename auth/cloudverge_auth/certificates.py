"""The cluster's certificate authority as auth uses it: signing a server's request for a certificate.

Pure: files' contents and the time are passed in. What a request asks for is not taken over, but for its public key
and the proof that its sender has the private one: the name in the certificate is the host we were told with the
enrolment code, and it is good for a server of this cluster and nothing else. The CA's key is never logged.
"""

import ipaddress
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloudverge_protocol.errors import Code, ProtocolFault

LIFE: Final = timedelta(days=365)
CLOCK_SLACK: Final = timedelta(minutes=10)  # a new host's clock may be behind
MIN_RSA_BITS: Final = 2048
MAX_NAME_CHARS: Final = 64  # of a common name, by its definition

PublicKey = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey
PrivateKey = EllipticCurvePrivateKey | Ed25519PrivateKey | RSAPrivateKey


class Authority:
    """A CA: its certificate and its private key."""

    def __init__(self, certificate_pem: bytes, key_pem: bytes) -> None:
        """Raises ProtocolFault(INVALID) if they are no pair."""
        try:
            self._certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = load_pem_private_key(key_pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ProtocolFault(Code.INVALID, "the cluster CA's certificate or key is not PEM") from None
        if not isinstance(key, PrivateKey) or key.public_key() != self._certificate.public_key():
            raise ProtocolFault(Code.INVALID, "the cluster CA's key is not the one of its certificate")
        self._key: PrivateKey = key

    def sign(self, csr_pem: str, host: str, name: str, now: datetime) -> str:
        """A certificate (PEM) for the server ``host`` (a DNS name or an address) with the key of the request.

        Raises ProtocolFault(BAD_REQUEST) for a request that is none or whose key is too weak.
        """
        public = public_key_of(csr_pem)
        ca, end = self._certificate, min(now + LIFE, self._certificate.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (name or host)[:MAX_NAME_CHARS])])
            )
            .issuer_name(ca.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - CLOCK_SLACK, ca.not_valid_before_utc))
            .not_valid_after(end)
        )
        for extension, critical in self._extensions(public, host):
            builder = builder.add_extension(extension, critical)
        algorithm = None if isinstance(self._key, Ed25519PrivateKey) else SHA256()
        return builder.sign(self._key, algorithm).public_bytes(Encoding.PEM).decode()

    def _extensions(self, public: PublicKey, host: str) -> list[tuple[x509.ExtensionType, bool]]:
        usage = x509.KeyUsage(
            digital_signature=True,
            key_encipherment=isinstance(public, RSAPublicKey),
            content_commitment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=False,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (usage, True),
            (x509.ExtendedKeyUsage(purposes), False),
            (x509.SubjectAlternativeName([name_of(host)]), False),
            (x509.SubjectKeyIdentifier.from_public_key(public), False),
            (issuer, False),
        ]


def name_of(host: str) -> x509.GeneralName:
    """A host as a certificate names it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def public_key_of(csr_pem: str) -> PublicKey:
    """The key of a request whose sender has proved to hold it; raises ProtocolFault(BAD_REQUEST)."""
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        key, proved = csr.public_key(), csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise ProtocolFault(Code.BAD_REQUEST, "csr: not a request for a certificate in PEM") from None
    if not proved:
        raise ProtocolFault(Code.BAD_REQUEST, "csr: its signature is not that of its key")
    weak = isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS
    if weak or not isinstance(key, PublicKey):
        raise ProtocolFault(Code.BAD_REQUEST, "csr: the key must be EC, Ed25519, or RSA of 2048 bits or more")
    return key
