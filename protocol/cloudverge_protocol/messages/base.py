"""What every message is, what may answer any request, and how two servers greet."""

import msgspec


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of all messages."""


class ErrorReply(Message, frozen=True):
    """Why a request was refused; ``code`` is an ``errors.Code``."""

    code: int
    message: str
    retry_after_s: float = 0.0


class Empty(Message, frozen=True):
    """Nothing to say but yes."""


class Hello(Message, frozen=True):
    """First frame of a connection, and again with a fresher token whenever the old one nears its end.

    ``cluster`` and ``history`` may be empty when the client does not know them yet; a known one that differs
    from the server's is refused (WRONG_CLUSTER, WRONG_HISTORY). ``token`` is for a metaserver an identity ticket,
    for a chunkserver a chunk ticket that is good there, or a server ticket (from another server).
    """

    version: int
    token: str
    cluster: str = ""
    history: str = ""
    software: str = ""


class HelloReply(Message, frozen=True):
    """What this server is. ``now_ns`` is its clock, for diagnosis only."""

    version: int
    cluster: str
    history: str
    server: str
    now_ns: int
