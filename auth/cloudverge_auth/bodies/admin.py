"""Bodies of what administrators do."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from cloudverge_auth.bodies.fields import Body, Quota, Until
from cloudverge_auth.settings import SignUp


class UserOut(BaseModel):
    """A user; quotas of 0 are none; ``spaces``: how many count for him."""

    user: str
    user_id: int
    admin: bool
    disabled: bool
    quota_bytes: int
    quota_inodes: int
    created_at: datetime
    spaces: int


class UserChange(Body):
    """What shall be otherwise."""

    disabled: bool | None = None
    admin: bool | None = None
    quota_bytes: Quota | None = None
    quota_inodes: Quota | None = None


class SpaceChange(Body):
    """What shall be otherwise."""

    quota_bytes: Quota | None = None
    quota_inodes: Quota | None = None


class NewInvite(Body):
    """For whom, and until when."""

    admin: bool = False
    until: Until | None = None


class InviteMade(BaseModel):
    """``invite``: the secret; shown this once."""

    id: int
    invite: str


class InviteOut(BaseModel):
    """An invitation; ``by`` is "" for the operator's; ``until`` in Unix seconds, 0: no end."""

    id: int
    admin: bool
    by: str
    created_at: datetime
    until: int
    state: Literal["open", "used", "revoked", "expired"]
    used_by: str


class Policy(Body):
    """Who may sign up."""

    sign_up: SignUp


class KeyMade(BaseModel):
    """The id of a signing key that takes over soon."""

    kid: str
