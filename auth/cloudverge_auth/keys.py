"""Ed25519 keys: one signs, a ring of published ones verifies.

A key is known by its ``kid``, a hash of the public key, so two keys never share one and a published ring can
be merged or replaced in any order. Rings are kept per issuer: auth's never verifies a metaserver's tickets.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cloudverge_protocol.errors import Code, ProtocolFault

KEY_BYTES = 32
MAX_RING_KEYS = 64


def to_b64(data: bytes) -> str:
    """base64url without padding, as in JWT."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_b64(text: str) -> bytes:
    """The bytes of ``to_b64``; raises ValueError."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def kid_of(public: bytes) -> str:
    """The key id of a raw public key."""
    return to_b64(sha256(public).digest()[:12])


class SigningKey:
    """A private key and its id. Never logged: its repr shows the id only."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self.private = private
        self.public_bytes = private.public_key().public_bytes_raw()
        self.kid = kid_of(self.public_bytes)

    @classmethod
    def generate(cls) -> "SigningKey":
        """A new random key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, private: bytes) -> "SigningKey":
        """The key whose ``to_bytes`` this is; raises ValueError."""
        return cls(Ed25519PrivateKey.from_private_bytes(private))

    def to_bytes(self) -> bytes:
        """The raw private key (KEY_BYTES long), to be kept secret."""
        return self.private.private_bytes_raw()

    def ring(self) -> "KeyRing":
        """A ring of this key alone."""
        return KeyRing({self.kid: self.private.public_key()})

    def __repr__(self) -> str:
        return f"SigningKey({self.kid})"


@dataclass(frozen=True)
class KeyRing:
    """Published public keys of one issuer, by key id."""

    keys: Mapping[str, Ed25519PublicKey]

    @classmethod
    def from_public(cls, keys: Mapping[str, str]) -> "KeyRing":
        """From {kid: base64url raw key}; raises ProtocolFault(BAD_REQUEST) if it is not exactly that."""
        if len(keys) > MAX_RING_KEYS:
            raise ProtocolFault(Code.BAD_REQUEST, f"more than {MAX_RING_KEYS} published keys")
        return cls({kid: _public_key(kid, text) for kid, text in keys.items()})

    @classmethod
    def from_json(cls, value: object) -> "KeyRing":
        """From a parsed {"keys": {kid: base64url raw key}, ...}; raises ProtocolFault(BAD_REQUEST)."""
        keys = value.get("keys") if isinstance(value, dict) else None
        if not isinstance(keys, dict):
            raise ProtocolFault(Code.BAD_REQUEST, "published keys are not an object with 'keys'")
        return cls.from_public(keys)

    def to_public(self) -> dict[str, str]:
        """{kid: base64url raw key}."""
        return {kid: to_b64(key.public_bytes_raw()) for kid, key in self.keys.items()}

    def to_json(self) -> dict[str, dict[str, str]]:
        """What ``from_json`` takes."""
        return {"keys": self.to_public()}

    def __contains__(self, kid: str) -> bool:
        return kid in self.keys


def _public_key(kid: object, text: object) -> Ed25519PublicKey:
    if not isinstance(kid, str) or not isinstance(text, str):
        raise ProtocolFault(Code.BAD_REQUEST, "a published key is not text")
    try:
        raw = from_b64(text)
        key = Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        raise ProtocolFault(Code.BAD_REQUEST, f"published key {kid!r} is malformed") from None
    if kid != kid_of(raw):
        raise ProtocolFault(Code.BAD_REQUEST, f"published key {kid!r} is not the one its id names")
    return key
