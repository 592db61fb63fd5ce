"""What auth's HTTP takes and gives, as pydantic models: every length bounded, no control characters."""

from datetime import datetime
from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from cloudverge_auth.signins import MAX_REFRESH_CHARS
from cloudverge_protocol.ids import ID_MAX


def _not_dots(name: str) -> str:
    if name in (".", ".."):
        raise ValueError("must be more than dots")
    return name


UserName = Annotated[str, Field(pattern=r"^[a-z0-9._-]{1,64}$"), AfterValidator(_not_dots)]
Password = Annotated[SecretStr, Field(min_length=8, max_length=1024)]
Label = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=64)]
Id = Annotated[int, Field(ge=1, le=ID_MAX)]
PathId = Annotated[int, Path(ge=1, le=ID_MAX)]


class Body(BaseModel):
    """Base: unknown fields are refused, so a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid")


class LogIn(Body):
    """A user and the device in hand."""

    user: UserName
    password: Password
    device: Label = "unnamed device"


class SignUp(LogIn):
    """The same, with the secret that some clusters ask for."""

    invite: Annotated[SecretStr, Field(max_length=1024)] = SecretStr("")


class Refresh(Body):
    """The last refresh token given."""

    refresh_token: Annotated[str, Field(max_length=MAX_REFRESH_CHARS)]


class TicketFor(Body):
    """Which space: its id, its name, or "" for the caller's first."""

    space: Id | Label = ""


class SignedIn(BaseModel):
    """A sign-in; the access token is for this server, for ``access_expires_s`` seconds."""

    access_token: str
    access_expires_s: int
    refresh_token: str
    user_id: int
    device_id: int
    cluster: str


class Who(BaseModel):
    """The caller."""

    user_id: int
    user: str
    device_id: int
    device: str
    cluster: str


class DeviceOut(BaseModel):
    """One device of the caller; ``current``: the one asking."""

    id: int
    name: str
    created_at: datetime
    seen_at: datetime
    current: bool


class SpaceOut(BaseModel):
    """One space of the caller; quotas of 0 are none."""

    id: int
    name: str
    role: str
    quota_bytes: int
    quota_inodes: int


class Ticket(BaseModel):
    """An identity ticket, to be shown to metaserver and chunkservers within ``expires_s`` seconds."""

    ticket: str
    expires_s: int
    space: int
    role: str


class Keys(BaseModel):
    """Published verification keys: key id to base64url of the raw Ed25519 public key."""

    cluster: str
    keys: dict[str, str]


class Fine(BaseModel):
    """Done."""

    status: str = "ok"
