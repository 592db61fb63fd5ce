"""Bodies of tickets, grants, machine tokens and links."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, SecretStr, model_validator

from cloudverge_auth.bodies.fields import Body, FilePath, Id, Label, Secret, SomeLabel, Until, UserName
from cloudverge_auth.tokens import Role
from cloudverge_protocol.ids import ID_MAX


class TicketFor(Body):
    """Which space: its id, its name, or "" for the caller's first. With a ``grant`` to the caller: what that gives."""

    space: Id | Label = ""
    grant: Annotated[int, Field(ge=0, le=ID_MAX)] | None = None


class Machine(Body):
    """A machine's token."""

    token: Annotated[str, Field(max_length=128)]


class Ticket(BaseModel):
    """An identity ticket, to be shown to the metaserver within ``expires_s`` seconds.

    ``label`` is how people call what it reaches; ``metaserver`` is where frames go, "" if the operator did not say.
    """

    ticket: str
    expires_s: int
    space: int
    role: Role
    grant: int
    root: int
    label: str
    metaserver: str
    metaserver_url: str


class NewGrant(Body):
    """A folder for a user (``to``) or for a machine (``label``): one of the two."""

    space: Id
    root: Id
    path: FilePath
    rw: bool = False
    until: Until | None = None
    to: UserName | None = None
    label: SomeLabel | None = None

    @model_validator(mode="after")
    def _is_for_one(self) -> "NewGrant":
        if (self.to is None) == (self.label is None):
            raise ValueError("give either 'to' (a user) or 'label' (a machine)")
        return self


class GrantMade(BaseModel):
    """``token``: of a machine; shown this once."""

    id: int
    token: str | None = None


class NewLink(Body):
    """A file for whoever has the link."""

    space: Id
    ino: Id
    path: FilePath
    until: Until | None = None
    password: Secret | None = None
    max_downloads: Id | None = None


class LinkMade(BaseModel):
    """``url`` has the secret in it; shown this once."""

    id: int
    url: str


class GrantOut(BaseModel):
    """A grant, token or link; ``until`` in Unix seconds, 0: no end; ``max_downloads`` 0: no limit."""

    id: int
    kind: Literal["user", "token", "link"]
    direction: Literal["given", "received"]
    space: int
    space_name: str
    root: int
    path: str
    rw: bool
    to: str
    by: str
    label: str
    until: int
    created_at: datetime
    downloads: int
    max_downloads: int


class OpenLink(Body):
    """What a visitor shows to the server that asks; ``count``: a download begins."""

    secret: Secret
    password: Secret = SecretStr("")
    address: Annotated[str, Field(max_length=256)]
    count: bool


class LinkOpened(BaseModel):
    """The file behind a link; ``until`` in Unix seconds, 0: no end."""

    id: int
    space: int
    ino: int
    name: str
    until: int
