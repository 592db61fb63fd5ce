"""What a PATH on the command line means: something in one of the user's mounts, or SPACE:PATH without a mount.

What lies in a mount is asked for as the account of that mount. The metaserver knows committed state only, so the
mount is synced first.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudverge_mount.account.answers import Step, Thing
from cloudverge_mount.account.choice import Wish
from cloudverge_mount.account.people import People
from cloudverge_mount.authclient import Ticket
from cloudverge_mount.control import ask
from cloudverge_mount.mountpoints import resolve
from cloudverge_mount.progress import show
from cloudverge_mount.registry import MountRecord, all_mounts
from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import ROOT_INODE


@dataclass(frozen=True)
class Located:
    """A path below the root of a space, or of a grant; in ``mount``, if it is in one."""

    space: str
    path: str
    grant: int | None = None
    mount: MountRecord | None = None


@dataclass(frozen=True)
class Found:
    """A path that the metaserver knows."""

    located: Located
    ticket: Ticket
    thing: Thing

    @property
    def chain(self) -> tuple[int, ...]:
        """The inodes from the root to it."""
        return tuple(step.ino for step in self.thing.chain)

    @property
    def path(self) -> str:
        """Its path from the root; the root is "/"."""
        return self.located.path or "/"

    @property
    def space(self) -> int:
        """The number of its space."""
        return self.ticket.space


def locate(
    text: str, mounts: Sequence[MountRecord], exists: Callable[[str], bool] = os.path.lexists
) -> Located:
    """What ``text`` means; raises Refused. A colon may also be part of a name that is there."""
    absolute = resolve(Path(text))
    mount = next((each for each in mounts if absolute.is_relative_to(each.mountpoint)), None)
    space, colon, below = text.partition(":")
    named = bool(colon and space) and "/" not in space
    if mount is not None and (not named or exists(text)):
        path = str(absolute.relative_to(mount.mountpoint))
        named_by = str(mount.space_id) if mount.space_id else mount.space
        return Located(named_by, "" if path == "." else path, mount.grant, mount)
    if named:
        return Located(space, "/".join(part for part in below.split("/") if part))
    raise Refused(Code.NOT_FOUND, f"{text} is in no CloudVerge mount of yours; without one: SPACE:PATH")


def wish_for(located: Located, said: Wish) -> Wish:
    """Whose account to use: what was said, else that of the mount. Raises Refused for a machine's mount."""
    mount = located.mount
    if mount is None or said != Wish():
        return said
    if mount.machine:
        raise Refused(
            Code.NOT_PERMITTED,
            f"{mount.mountpoint} is mounted with a machine's token, which is nobody's account",
        )
    if mount.server_url:
        return Wish(server=mount.server_url, user=mount.user)
    return Wish(cluster=Path(mount.cluster_folder), user=mount.profile_user)


def locate_here(text: str) -> Located:
    """As ``locate``, with the mounts there are; what the mount has not shipped yet is shipped."""
    located = locate(text, all_mounts())
    if located.mount is not None:
        show(ask(Path(located.mount.socket), "sync"))
    return located


async def find(people: People, located: Located) -> Found:
    """Ask the metaserver for it; raises Refused(NOT_FOUND)."""
    wanted: int | str = located.space
    if located.grant is None:
        wanted = (await people.space(located.space)).id
    ticket = await people.ticket(wanted, located.grant)
    try:
        return Found(located, ticket, await people.thing(ticket, located.path))
    except Refused as error:
        if error.code != Code.NOT_FOUND:
            raise
        if not located.path:  # a space that nobody has mounted yet has rights, but no folder
            return Found(located, ticket, Thing(ROOT_INODE, "folder", [Step(ROOT_INODE)]))
        where = ticket.label or located.space
        raise Refused(Code.NOT_FOUND, f"there is no {located.path or '/'} in {where}") from None


def refuse_in_grant(located: Located) -> None:
    """What was granted to somebody is not his to pass on, or to know more of."""
    if located.grant is not None:
        raise Refused(Code.NOT_PERMITTED, f"this was granted to you (grant {located.grant}): ask who gave it")
