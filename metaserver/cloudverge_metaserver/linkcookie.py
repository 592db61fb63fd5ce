"""The cookie by which a browser that has given a link's password keeps its right to the link for a while.

It is sealed with a key that only metaservers have (made from the one that signs tickets), so it can be neither
made nor read elsewhere; it holds for one link, until it expires. The password is inside: auth is asked with it again
for each download, so a link that ended, or a space that was deleted, ends the cookie's use as well.
"""

import base64
import binascii
import os
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

LIFE_S: Final = 15 * 60
_NONCE_BYTES: Final = 12
_EXPIRY: Final = struct.Struct(">Q")


class LinkCookies:
    """Seals and opens; time is passed in."""

    def __init__(self, signing_key: bytes) -> None:
        key = HKDF(SHA256(), 32, salt=None, info=b"cloudverge link cookie").derive(signing_key)
        self._sealer = AESGCM(key)

    def seal(self, secret: str, password: str, now_s: float) -> str:
        """A cookie's value that holds for the link of ``secret`` from now on."""
        nonce = os.urandom(_NONCE_BYTES)
        inside = _EXPIRY.pack(int(now_s) + LIFE_S) + password.encode()
        sealed = self._sealer.encrypt(nonce, inside, secret.encode())
        return base64.urlsafe_b64encode(nonce + sealed).decode().rstrip("=")

    def password_in(self, cookie: str, secret: str, now_s: float) -> str:
        """The password that was given; "" if the cookie is not one of ours, of another link, or expired."""
        try:
            sealed = base64.urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4))
            inside = self._sealer.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], secret.encode())
            (expires_s,) = _EXPIRY.unpack_from(inside)
        except (InvalidTag, ValueError, binascii.Error, struct.error):
            return ""
        return inside[_EXPIRY.size :].decode() if now_s < expires_s else ""
