"""What goes in and out of the HTTP routes, as the published description shows it."""

from typing import Annotated, Literal

import pydantic

from cloudverge_protocol.ids import ID_MAX

_NO_NUL = r"^[^\x00]*$"  # which the database cannot keep
Text255 = Annotated[str, pydantic.Field(max_length=255, pattern=_NO_NUL)]
Bytes64 = Annotated[int, pydantic.Field(ge=0, le=ID_MAX)]


class RegisterBody(pydantic.BaseModel):
    """A chunkserver introduces itself."""

    server_uuid: Annotated[str, pydantic.Field(min_length=8, max_length=64, pattern=_NO_NUL)]
    host: Annotated[str, pydantic.Field(min_length=1, max_length=255, pattern=_NO_NUL)]
    frame_port: Annotated[int, pydantic.Field(ge=1, le=65535)]
    http_url: Annotated[str, pydantic.Field(max_length=1024, pattern=_NO_NUL)]
    receipt_key: Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9+/_-]{43}=?$")]  # 32 bytes in base64
    capacity_bytes: Bytes64
    free_bytes: Bytes64
    rack: Text255 = ""
    cluster: str = ""


class HeartbeatBody(pydantic.BaseModel):
    """A chunkserver reports."""

    free_bytes: Bytes64
    capacity_bytes: Bytes64
    open_bytes: Bytes64 = 0
    chunks: Bytes64 = 0
    damaged: Annotated[list[Bytes64], pydantic.Field(max_length=100_000)] = []
    full: bool = False


class Greeting(pydantic.BaseModel):
    """What a chunkserver is told, at registration and with every heartbeat."""

    server_id: int
    cluster: str
    history: str
    auth_keys: dict[str, str]
    meta_keys: dict[str, str]
    server_ticket: str
    heartbeat_s: float
    hosts: dict[int, str]
    epochs: dict[int, int]


class Keys(pydantic.BaseModel):
    """The keys that this cluster's metaservers sign with, by key id."""

    cluster: str
    keys: dict[str, str]


class ServerOut(pydantic.BaseModel):
    """A chunkserver as people see it."""

    id: int
    name: str
    uuid: str
    host: str
    frame_port: int
    rack: str
    state: Literal["up", "full", "draining", "silent"]
    capacity_bytes: int
    free_bytes: int
    chunks: int
    last_seen_s: float


class ServersOut(pydantic.BaseModel):
    """All chunkservers."""

    servers: list[ServerOut]


class ChunkCount(pydantic.BaseModel):
    """Chunks in one state."""

    chunks: int
    live_bytes: int


class StatusOut(pydantic.BaseModel):
    """The cluster as a whole."""

    cluster: str
    history: str
    replicas: int
    free_bytes: int
    servers: list[ServerOut]
    chunks: dict[str, ChunkCount]


class Step(pydantic.BaseModel):
    """One name on the way to a path."""

    ino: int
    name: str


class PathOut(pydantic.BaseModel):
    """What a path names; ``chain`` begins with the root of what the caller may see, whose name is empty."""

    ino: int
    kind: str
    size: int
    chain: list[Step]


class LogLine(pydantic.BaseModel):
    """Something that was done; ``path`` as it was then, from the root of what the caller may see."""

    seq: int
    at: float = pydantic.Field(description="Unix seconds")
    user: str
    device: str
    action: str
    path: str
    detail: str
    hash: str


class LogOut(pydantic.BaseModel):
    """A page of the log, newest first.

    ``intact``: the chain of hashes through these lines and their neighbours is unbroken. ``next``: what to ask
    for with ``before`` to see older ones; null at the end.
    """

    entries: list[LogLine]
    intact: bool
    next: int | None
