"""Who may use a frame connection: what is asked of its first bytes and of each HELLO.

Kept apart from the connection itself (``peer``) because this is the part an attacker reads: what is refused,
and with which words. Everybody without a valid token hears the same; a caller of another protocol version is
told so, because its token may look different too; cluster and history are named to holders of a token only.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from cloudverge_protocol.checksum import Buffer, crc32c
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, ProtocolFault, Unavailable
from cloudverge_protocol.frames import PREFIX, PREFIX_BYTES
from cloudverge_protocol.ids import PROTOCOL_VERSION
from cloudverge_protocol.messages import FrameType, Hello, HelloReply

UNAUTHORIZED_MESSAGE: Final = "a valid token is required"
HELLO_WITHIN_S: Final = 10.0
HELLO_HEADER_BYTES: Final = 16 * 1024
AUTHENTICATE_WITHIN_S: Final = 10.0

Authenticate = Callable[[Hello], Awaitable[object]]
Introduce = Callable[[], HelloReply]

log = structlog.get_logger("cloudverge.wire")


def unauthorized() -> Denied:
    """The one answer to a caller without a valid token."""
    return Denied(Code.UNAUTHORIZED, UNAUTHORIZED_MESSAGE)


def is_small_hello(prefix: Buffer) -> bool:
    """Whether the first 24 bytes of a connection announce a HELLO of acceptable size."""
    kind, flags, _, header_bytes, body_bytes, _, crc = PREFIX.unpack(prefix)
    if crc != crc32c(memoryview(prefix)[: PREFIX_BYTES - 4]):
        return False
    fits = not body_bytes and header_bytes <= HELLO_HEADER_BYTES
    return bool(kind == FrameType.HELLO and not flags and fits)


def check_version(hello: Hello) -> None:
    """Raise ProtocolFault(VERSION) for a caller that speaks another version."""
    if hello.version != PROTOCOL_VERSION:
        raise ProtocolFault(
            Code.VERSION,
            f"this server speaks protocol version {PROTOCOL_VERSION}, the caller {hello.version}: "
            "upgrade the older one",
        )


def check_same_cluster(hello: Hello, ours: HelloReply) -> None:
    """Raise ProtocolFault(WRONG_CLUSTER or WRONG_HISTORY) for a caller that knows another one."""
    if hello.cluster and hello.cluster != ours.cluster:
        raise ProtocolFault(Code.WRONG_CLUSTER, f"this server belongs to cluster {ours.cluster}")
    if hello.history and hello.history != ours.history:
        raise ProtocolFault(Code.WRONG_HISTORY, f"this cluster's history is now {ours.history}")


async def admit(hello: Hello, authenticate: Authenticate, introduce: Introduce) -> tuple[object, HelloReply]:
    """The caller's identity and what to answer; raises CloudVergeError, whatever goes wrong."""
    try:
        check_version(hello)
        async with asyncio.timeout(AUTHENTICATE_WITHIN_S):
            identity = await authenticate(hello)
        reply = introduce()
        check_same_cluster(hello, reply)
    except CloudVergeError as error:
        raise (unauthorized() if error.code == Code.UNAUTHORIZED else error) from None
    except TimeoutError:
        raise Unavailable(Code.TIMEOUT, "the token could not be checked in time: try again") from None
    except Exception as error:
        log.error("authentication failed unexpectedly", exc_info=error)
        raise Unavailable(Code.INTERNAL, "internal error: the server's log has the details") from None
    return identity, reply
