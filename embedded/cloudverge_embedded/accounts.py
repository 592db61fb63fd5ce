"""The user PostgreSQL runs as: ourselves, or as root somebody unprivileged, since it refuses to be root."""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from cloudverge_protocol.errors import Code, Unavailable

_CANDIDATES = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """Numbers of a user."""

    uid: int
    gid: int


def postgres_account(postgres_folder: Path) -> Account | None:
    """The unprivileged user to run PostgreSQL as, or None to run it as ourselves.

    An existing folder keeps its owner: a user named postgres may have been created since.
    """
    if os.geteuid() != 0:
        return None
    try:
        owner = postgres_folder.stat()
    except FileNotFoundError:
        return _first_known()
    return Account(owner.st_uid, owner.st_gid) if owner.st_uid else _first_known()


def can_reach(folder: Path, account: Account) -> bool:
    """True if ``account``, in no further group, may pass through ``folder`` and all folders above it."""
    resolved = folder.resolve()
    return all(_may_pass(step.stat(), account) for step in (resolved, *resolved.parents))


def _may_pass(status: os.stat_result, account: Account) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _first_known() -> Account:
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise Unavailable(
        Code.UNAVAILABLE, "PostgreSQL cannot run as root, and there is no user postgres or nobody"
    )
