"""What went wrong between two ends of TLS, told to people. Pure.

These faults are no server's absence: another certificate authority, a certificate that has run out or is for another
name, plain text on one side only. Who is just starting gives up at once. A mount that runs takes such a server for one
that cannot be reached: it asks other replicas, keeps its journal, and tries again now and then, because somebody on
the way must not be able to end it. Nobody may answer one by falling back to plain text.
"""

import ssl
from collections.abc import Iterator
from typing import Final

from cloudverge_protocol.errors import Code, Unavailable

_EXPIRED, _NOT_YET = 10, 9  # OpenSSL's X509_V_ERR_... numbers
_WRONG_NAME: Final = (62, 64)
_PLAIN_TEXT: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"}
)


class Untrusted(Unavailable):
    """A server that cannot prove that it is ours; trying again at once does not help."""


def _untrusted(message: str) -> Untrusted:
    return Untrusted(Code.UNREACHABLE, message)


def tls_fault(error: BaseException, where: str) -> Untrusted | None:
    """What to say if TLS with the server at ``where`` failed, here or among the causes; None if it was not TLS."""
    for each in _causes(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return _bad_certificate(each, where)
        if isinstance(each, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return None
        if isinstance(each, ssl.SSLError):
            return _bad_handshake(each, where)
    return None


def tls_expected(where: str) -> Untrusted:
    """We speak plain text, the server TLS."""
    return _untrusted(
        f"{where} speaks TLS, and no certificate authority is known here: use https and the cluster's CA "
        "(or unmount and mount again, if TLS has just been turned on)"
    )


def _bad_certificate(error: ssl.SSLCertVerificationError, where: str) -> Untrusted:
    number = error.verify_code
    if number == _EXPIRED:
        return _untrusted(
            f"the certificate of {where} has expired: cv up renews it there (or the clock here is wrong)"
        )
    if number == _NOT_YET:
        return _untrusted(f"the certificate of {where} is not valid yet: is the clock here wrong?")
    if number in _WRONG_NAME:
        return _untrusted(
            f"the certificate of {where} is for another address: use the one that cv up --listen was given"
        )
    return _untrusted(
        f"the certificate of {where} is not from this cluster's CA ({error.verify_message}): it is another cluster, "
        "or somebody stands between; nothing was sent"
    )


def _bad_handshake(error: ssl.SSLError, where: str) -> Untrusted:
    reason = error.reason or ""
    if reason in _PLAIN_TEXT:
        return _untrusted(
            f"{where} speaks plain text where TLS is expected: turn TLS on there (cv up --tls); nothing was sent"
        )
    return _untrusted(f"TLS with {where} failed: {reason or error}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
