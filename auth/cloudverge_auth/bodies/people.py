"""Bodies of accounts: coming in, who one is, devices, passwords."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field, SecretStr

from cloudverge_auth.bodies.fields import Body, Label, Password, Secret, UserName
from cloudverge_auth.signins import MAX_REFRESH_CHARS, REFRESH_CHARS


class LogIn(Body):
    """A user and the device in hand."""

    user: UserName
    password: Password
    device: Label = "unnamed device"


class SignUp(LogIn):
    """The same, with the secret that some clusters ask for."""

    invite: Secret = SecretStr("")


class Refresh(Body):
    """The last refresh token given. ``next_token``: what the next shall be, 32 bytes made at random, in base64url.

    Whoever keeps it before he asks may ask again with both if no answer came.
    """

    refresh_token: Annotated[str, Field(max_length=MAX_REFRESH_CHARS)]
    next_token: Annotated[str, Field(pattern=rf"^([A-Za-z0-9_-]{{{REFRESH_CHARS}}})?$")] = ""


class PasswordChange(Body):
    """The password as it is and as it shall be."""

    old: Password
    new: Password


class Claim(Body):
    """An administrator's invitation."""

    invite: Secret


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
    admin: bool


class DeviceOut(BaseModel):
    """One device of the caller; ``current``: the one asking."""

    id: int
    name: str
    created_at: datetime
    seen_at: datetime
    current: bool


class Keys(BaseModel):
    """Published verification keys: key id to base64url of the raw Ed25519 public key."""

    cluster: str
    keys: dict[str, str]


class Ca(BaseModel):
    """The certificate of the cluster's CA (PEM); "": the cluster has none."""

    ca: str
