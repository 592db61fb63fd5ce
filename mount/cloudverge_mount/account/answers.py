"""What auth and the metaserver answer to people's questions. Fields that may be missing have defaults.

Moments are Unix seconds or ISO text: see ``when``; a time at which something ends is 0 if it has none. Nothing that
holds a secret shows it when it is printed.
"""

import msgspec

Moment = float | str | None


class Fine(msgspec.Struct, frozen=True):
    """Done."""

    status: str = "ok"


class Who(msgspec.Struct, frozen=True):
    """The caller."""

    user_id: int
    user: str
    device_id: int
    device: str
    cluster: str
    admin: bool = False


class Device(msgspec.Struct, frozen=True):
    """One device of the caller."""

    id: int
    name: str
    created_at: Moment = None
    seen_at: Moment = None
    current: bool = False


class Space(msgspec.Struct, frozen=True):
    """One space of the caller; quotas of 0 are none."""

    id: int
    name: str
    role: str = "owner"
    kind: str = ""
    owner: str = ""
    quota_bytes: int = 0
    quota_inodes: int = 0


class Member(msgspec.Struct, frozen=True):
    """One member of a space."""

    user: str
    role: str
    since: Moment = None


class Grant(msgspec.Struct, frozen=True):
    """A right to a part of a space: to a user, a machine (token), or whoever has a link."""

    id: int
    kind: str
    space: int
    root: int
    path: str = ""
    direction: str = "given"
    space_name: str = ""
    rw: bool = False
    to: str | None = None
    by: str = ""
    label: str | None = None
    until: Moment = None
    created_at: Moment = None
    downloads: int | None = None
    max_downloads: int | None = None


class NewGrant(msgspec.Struct, frozen=True):
    """A grant that was made; ``token`` of a machine, told this once."""

    id: int
    token: str | None = None

    def __repr__(self) -> str:
        return f"<new grant {self.id}>"


class NewLink(msgspec.Struct, frozen=True):
    """A link that was made; its URL holds the secret, told this once."""

    id: int
    url: str

    def __repr__(self) -> str:
        return f"<new link {self.id}>"


class LogEntry(msgspec.Struct, frozen=True):
    """Something that was done; ``path`` of what was done to files, ``detail`` for people to read."""

    seq: int
    at: Moment
    user: str = ""
    device: str = ""
    action: str = ""
    path: str = ""
    detail: object = ""
    hash: str = ""


class Log(msgspec.Struct, frozen=True):
    """A page of a log, newest first; ``intact``: nothing in its chain was changed or removed.

    ``next``: before which entry the next page begins; a page may be empty and not the last.
    """

    entries: list[LogEntry]
    intact: bool = True
    next: int | None = None


class Step(msgspec.Struct, frozen=True):
    """One inode on the way to another, with its name in the one before."""

    ino: int
    name: str = ""


class Thing(msgspec.Struct, frozen=True):
    """What lies at a path, as committed, and the way to it from the root of the session."""

    ino: int
    kind: str
    chain: list[Step]
    size: int = 0


class UserAccount(msgspec.Struct, frozen=True):
    """An account, as an administrator sees it."""

    user: str
    user_id: int = 0
    admin: bool = False
    disabled: bool = False
    quota_bytes: int = 0
    quota_inodes: int = 0
    created_at: Moment = None
    spaces: object = None


class Invite(msgspec.Struct, frozen=True):
    """An invitation that was made."""

    id: int
    admin: bool = False
    by: str = ""
    until: Moment = None
    created_at: Moment = None
    state: str = ""
    used_by: str = ""


class NewInvite(msgspec.Struct, frozen=True):
    """A new invitation and its secret, told this once."""

    id: int
    invite: str

    def __repr__(self) -> str:
        return f"<new invitation {self.id}>"


class Policy(msgspec.Struct, frozen=True):
    """Who may sign up: open, invite or closed."""

    sign_up: str


class NewKey(msgspec.Struct, frozen=True):
    """The id of a signing key that takes over soon."""

    kid: str
