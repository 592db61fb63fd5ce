"""Which account a command means, from what was said and the profiles there are. Pure.

In this order: the cluster folder that was named; the profile for the server, or the user, that was named; the current
profile; the cluster of this machine. CLOUDVERGE_DATA_DIR in the environment names a cluster folder, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudverge_mount.credentials import Credentials
from cloudverge_protocol.errors import Code, Refused


@dataclass(frozen=True)
class Wish:
    """What was said on the command line; empty: nothing."""

    server: str = ""
    cluster: Path | None = None
    user: str = ""


@dataclass(frozen=True)
class Choice:
    """An account: of a server, or of the cluster of this machine in ``folder``. ``profile``: it is signed in."""

    server: str = ""
    folder: Path | None = None
    user: str = ""
    profile: Credentials | None = None


def choose(
    wish: Wish, profiles: Sequence[Credentials], current: Credentials | None, default_folder: Path
) -> Choice:
    """The account that is meant; raises Refused when several could be."""
    if wish.cluster is not None:
        here = [each for each in profiles if each.folder == str(wish.cluster) and each.user == wish.user]
        return _of(here[0]) if here else Choice(folder=wish.cluster, user=wish.user)
    if wish.server:
        server = same_form(wish.server)
        there = [each for each in profiles if each.server == server and wish.user in ("", each.user)]
        found = _the_one(there, current, f"several users are signed in at {server}: say --user NAME")
        return _of(found) if found else Choice(server=server, user=wish.user)
    if wish.user:
        named = [each for each in profiles if each.user == wish.user and (each.server or each.folder)]
        found = _the_one(named, current, f"{wish.user} is signed in at several servers: say --server URL")
        return _of(found) if found else Choice(folder=default_folder, user=wish.user)
    if current is not None and (current.server or current.folder):
        return _of(current)
    return Choice(folder=default_folder)


def same_form(url: str) -> str:
    """One spelling of a server's URL, to compare and to keep."""
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}{separator}{host.lower()}{slash}{path}".rstrip("/")


def _of(profile: Credentials) -> Choice:
    folder = Path(profile.folder) if profile.folder else None
    return Choice(profile.server, folder, profile.user, profile)


def _the_one(found: Sequence[Credentials], current: Credentials | None, otherwise: str) -> Credentials | None:
    if len(found) > 1 and current in found:
        return current
    if len(found) > 1:
        raise Refused(Code.INVALID, otherwise)
    return found[0] if found else None
