"""Bodies of spaces, their members and their logs."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from cloudverge_auth.bodies.fields import Body, SpaceName, UserName
from cloudverge_auth.tokens import Role


class NewSpace(Body):
    """A team space."""

    name: SpaceName


class SpaceOut(BaseModel):
    """One space of the caller; it counts for ``owner``; quotas of 0 are none."""

    id: int
    name: str
    role: Role
    kind: Literal["personal", "team"]
    owner: str
    quota_bytes: int
    quota_inodes: int


class NewMember(Body):
    """Whom, and as what."""

    user: UserName
    role: Role


class NewRole(Body):
    """As what from now on."""

    role: Role


class MemberOut(BaseModel):
    """Somebody in a space."""

    user: str
    role: Role
    since: datetime


class EntryOut(BaseModel):
    """One change to rights; ``hash`` covers all entries up to this one."""

    seq: int
    at: datetime
    user: str
    device: str
    action: str
    detail: str
    hash: str


class LogOut(BaseModel):
    """Entries, newest first; ``intact``: the whole log is as it was written."""

    entries: list[EntryOut]
    intact: bool
