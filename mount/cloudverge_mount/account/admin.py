"""The verb ``cv admin``: accounts, quotas, invitations and who may sign up. Servers check that the caller may."""

import enum
import time
from pathlib import Path
from typing import Annotated

import typer

from cloudverge_mount.account import prompts
from cloudverge_mount.account.answers import Invite, UserAccount
from cloudverge_mount.account.flags import AsJson, Cluster, Server, Until, User, wish_of
from cloudverge_mount.account.opening import run
from cloudverge_mount.account.people import Body, People
from cloudverge_mount.account.printing import say, show, show_json
from cloudverge_mount.account.sizes import parse_count, parse_size, quota_in_words
from cloudverge_mount.account.when import parse_when, show_when
from cloudverge_protocol.errors import Code, Refused

admin = typer.Typer(
    help="Administer a cluster: users, quotas, invitations, who may sign up.", no_args_is_help=True
)
users = typer.Typer(help="List users; disable, enable, promote and demote them.", no_args_is_help=True)
quotas = typer.Typer(help="Set the quota of a user or a space.", no_args_is_help=True)
invites = typer.Typer(help="Make, list and revoke invitations.", no_args_is_help=True)
admin.add_typer(users, name="user")
admin.add_typer(quotas, name="quota")
admin.add_typer(invites, name="invite")

Account = Annotated[str, typer.Argument(metavar="NAME", help="Whose account.")]
Bytes = Annotated[str, typer.Option("--bytes", metavar="SIZE", help="500M, 10G, none.", show_default=False)]
Files = Annotated[str, typer.Option("--files", metavar="N", help="100000, none.", show_default=False)]


class SignUp(enum.StrEnum):
    """Who may sign up."""

    open = "open"
    invite = "invite"
    closed = "closed"


@admin.command("claim")
def claim(
    invite_file: Annotated[
        Path, typer.Option("--invite-file", metavar="FILE", help="An administrator's invitation.")
    ],
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
) -> None:
    """Become an administrator by a one-time invitation, such as the one that cv up wrote."""
    invite = prompts.secret_in(invite_file, "invitation")

    async def ask(people: People) -> None:
        await people.claim(invite)
        typer.echo(f"{people.sign_in.user} is an administrator now")

    run(wish_of(server, cluster, user), ask)


@admin.command("policy")
def policy(
    sign_up: Annotated[SignUp | None, typer.Argument(metavar="[open|invite|closed]")] = None,
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
    as_json: AsJson = False,
) -> None:
    """Show, or set, who may sign up."""

    async def ask(people: People) -> None:
        if sign_up is not None:
            await people.set_policy(sign_up.value)
        told = await people.policy()
        if as_json:
            show_json(told)
        else:
            typer.echo(f"sign-up: {told.sign_up}")

    run(wish_of(server, cluster, user), ask)


@admin.command("rotate-keys")
def rotate_keys(
    server: Server = "", cluster: Cluster = None, user: User = "", as_json: AsJson = False
) -> None:
    """Have a new key sign tickets from now on; nobody is signed out."""

    async def ask(people: People) -> None:
        made = await people.rotate_keys()
        if as_json:
            show_json(made)
        else:
            typer.echo(f"key {made.kid} takes over in three minutes")

    run(wish_of(server, cluster, user), ask)


@admin.command("log")
def accounts_log(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000)] = 50,
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
    as_json: AsJson = False,
) -> None:
    """Show what was done to accounts, newest first."""

    async def ask(people: People) -> None:
        told = await people.accounts_log(limit=limit)
        columns = {
            "WHEN": lambda entry: show_when(entry.at),
            "WHO": lambda entry: entry.user or "the operator",
            "DEVICE": lambda entry: entry.device,
            "WHAT": lambda entry: entry.action,
            "": lambda entry: entry.detail,
        }
        if as_json:
            show_json(told)
        else:
            show(told.entries, columns, as_json=False, none="nothing yet")
        if not told.intact:
            say("the log is not intact: entries were changed or removed in the database")

    run(wish_of(server, cluster, user), ask)


@users.command("list")
def list_users(
    server: Server = "", cluster: Cluster = None, user: User = "", as_json: AsJson = False
) -> None:
    """List all accounts."""

    async def ask(people: People) -> None:
        columns = {
            "USER": lambda each: each.user,
            "": _standing_of,
            "QUOTA": lambda each: quota_in_words(each.quota_bytes, each.quota_inodes),
            "SPACES": lambda each: each.spaces,
            "SINCE": lambda each: show_when(each.created_at),
        }
        show(await people.users(), columns, as_json=as_json, none="nobody")

    run(wish_of(server, cluster, user), ask)


def _standing_of(account: UserAccount) -> str:
    told = ["administrator"] if account.admin else []
    return ", ".join(told + (["disabled"] if account.disabled else []))


@users.command("disable")
def disable(name: Account, server: Server = "", cluster: Cluster = None, user: User = "") -> None:
    """End all sign-ins of a user and take no new ones; what he gave ends too."""
    _change(name, {"disabled": True}, f"{name} is disabled", server, cluster, user)


@users.command("enable")
def enable(name: Account, server: Server = "", cluster: Cluster = None, user: User = "") -> None:
    """Let a disabled user sign in again."""
    _change(name, {"disabled": False}, f"{name} is enabled", server, cluster, user)


@users.command("promote")
def promote(name: Account, server: Server = "", cluster: Cluster = None, user: User = "") -> None:
    """Make a user an administrator."""
    _change(name, {"admin": True}, f"{name} is an administrator", server, cluster, user)


@users.command("demote")
def demote(name: Account, server: Server = "", cluster: Cluster = None, user: User = "") -> None:
    """Make an administrator an ordinary user."""
    _change(name, {"admin": False}, f"{name} is no administrator", server, cluster, user)


def _change(name: str, changes: Body, done: str, server: str, cluster: Path | None, user: str) -> None:
    async def ask(people: People) -> None:
        await people.change_user(name, changes)
        typer.echo(done)

    run(wish_of(server, cluster, user), ask)


@quotas.command("user")
def quota_of_user(
    name: Account,
    size: Bytes = "",
    files: Files = "",
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
) -> None:
    """Bound what all spaces that a user owns hold together."""
    _change(name, _quota(size, files), f"the quota of {name} is set", server, cluster, user)


@quotas.command("space")
def quota_of_space(
    number: Annotated[int, typer.Argument(metavar="ID", min=1, help="The number of the space.")],
    size: Bytes = "",
    files: Files = "",
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
) -> None:
    """Bound what one space holds."""
    changes = _quota(size, files)

    async def ask(people: People) -> None:
        await people.change_space(number, changes)
        typer.echo(f"the quota of space {number} is set")

    run(wish_of(server, cluster, user), ask)


def _quota(size: str, files: str) -> Body:
    if not size and not files:
        raise Refused(Code.INVALID, "say what is bounded: --bytes SIZE, --files N, or both")
    changes: Body = {"quota_bytes": parse_size(size)} if size else {}
    return changes | ({"quota_inodes": parse_count(files)} if files else {})


@invites.command("create")
def create_invite(
    for_admin: Annotated[bool, typer.Option("--admin", help="Of an administrator.")] = False,
    until: Until = "",
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
    as_json: AsJson = False,
) -> None:
    """Make a one-time invitation; it is shown once."""
    body: Body = {"admin": for_admin} | ({"until": parse_when(until, time.time())} if until else {})

    async def ask(people: People) -> None:
        made = await people.invite(body)
        if as_json:
            show_json(made)
        else:
            say(f"invitation {made.id}, shown this once; cv signup asks for it, or takes --invite-file")
            typer.echo(made.invite)

    run(wish_of(server, cluster, user), ask)


@invites.command("list")
def list_invites(
    server: Server = "", cluster: Cluster = None, user: User = "", as_json: AsJson = False
) -> None:
    """List invitations and what became of them."""

    async def ask(people: People) -> None:
        columns = {
            "ID": lambda each: each.id,
            "FOR": lambda each: "an administrator" if each.admin else "a user",
            "STATE": _state_of,
            "BY": lambda each: each.by or "the operator",
            "MADE": lambda each: show_when(each.created_at),
            "UNTIL": lambda each: show_when(each.until or None, "no end"),
        }
        show(await people.invites(), columns, as_json=as_json, none="no invitations")

    run(wish_of(server, cluster, user), ask)


def _state_of(invite: Invite) -> str:
    return f"{invite.state} by {invite.used_by}" if invite.used_by else invite.state


@invites.command("revoke")
def revoke_invite(
    number: Annotated[int, typer.Argument(metavar="ID", min=1)],
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
) -> None:
    """Take an invitation back that nobody has used."""

    async def ask(people: People) -> None:
        await people.revoke_invite(number)
        typer.echo(f"invitation {number} is revoked")

    run(wish_of(server, cluster, user), ask)
