"""Trust on first use: whose certificate authority proves the servers of a cluster, decided once and pinned.

The one request that is made without verifying anyone is for the CA's certificate. It counts only when somebody has
compared its fingerprint; everything after it is verified with it. No secret is ever sent before.
"""

import hashlib
import re
import ssl
from collections.abc import Callable
from typing import Final

import httpx

from cloudverge_mount.account.prompts import confirm
from cloudverge_mount.authclient import AuthClient
from cloudverge_protocol.errors import Code, Denied, ProtocolFault, Refused

GROUP: Final = 4
HEX_DIGITS: Final = 64


def fingerprint_of(pem: str) -> str:
    """SHA-256 of a certificate, in groups of hex digits. Raises ProtocolFault."""
    try:
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    except ValueError:
        raise ProtocolFault(Code.BAD_REQUEST, "the server's CA is no certificate") from None
    return " ".join(digest[at : at + GROUP] for at in range(0, len(digest), GROUP))


def same_fingerprint(one: str, other: str) -> bool:
    """Whether two ways of writing a fingerprint say the same: with spaces, colons, in capitals."""
    mine, yours = (re.sub(r"[^0-9a-f]", "", text.lower()) for text in (one, other))
    return mine == yours and len(mine) == HEX_DIGITS


async def trusted_ca(
    url: str,
    *,
    fingerprint: str = "",
    ask: Callable[[str], bool] = confirm,
    transport: httpx.AsyncBaseTransport | None = None,
) -> str:
    """The CA to pin for the server at ``url``, as PEM; empty if it has none of its own. Raises Refused, Denied."""
    async with AuthClient(url, _verifying_nobody(), transport) as auth:
        pem = (await auth.authority()).ca
    if not pem:
        if fingerprint:
            raise Denied(
                Code.FORBIDDEN, f"{url} has no CA of its own: there is nothing with that fingerprint"
            )
        return ""
    shown = fingerprint_of(pem)
    if fingerprint:
        if not same_fingerprint(fingerprint, shown):
            raise Denied(Code.FORBIDDEN, f"the CA of {url} has another fingerprint: {shown}")
        return pem
    if not ask(
        f"{url} proves who it is by a CA with the SHA-256 fingerprint\n  {shown}\nIs that what you were told?"
    ):
        message = f"the CA of {url} ({shown}) is not trusted: --ca FILE, or cv login --fingerprint HEX, says which is"
        raise Refused(Code.INVALID, message)
    return pem


def _verifying_nobody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
