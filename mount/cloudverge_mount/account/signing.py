"""The verbs ``cv signup``, ``login``, ``logout``, ``whoami``, ``passwd``, ``profiles``: being somebody to a server."""

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import trio
import typer

from cloudverge_mount.account import prompts
from cloudverge_mount.account.choice import Wish, same_form
from cloudverge_mount.account.flags import AsJson, Cluster, PasswordStdin, Server, User, wish_of
from cloudverge_mount.account.opening import chosen, run
from cloudverge_mount.account.people import People
from cloudverge_mount.account.printing import say, show, show_json
from cloudverge_mount.account.profiles import Profiles
from cloudverge_mount.account.signin import SignIn
from cloudverge_mount.account.trust import trusted_ca
from cloudverge_mount.authclient import AuthClient
from cloudverge_mount.credentials import Credentials
from cloudverge_mount.endpoints import Endpoints, load_cluster, remote
from cloudverge_mount.username import user_name
from cloudverge_protocol.errors import Code, Denied, Refused

Ca = Annotated[
    Path | None, typer.Option("--ca", metavar="FILE", help="The cluster's own CA, which is then trusted.")
]
Fingerprint = Annotated[
    str,
    typer.Option(
        "--fingerprint", metavar="HEX", help="SHA-256 that the cluster's CA must have.", show_default=False
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="NAME", help="What this device is called.", show_default="its host name"
    ),
]
InviteFile = Annotated[Path | None, typer.Option("--invite-file", metavar="FILE", help="With an invitation.")]


@dataclass(frozen=True)
class Place:
    """A server to sign in at: elsewhere, or of the cluster of this machine in ``folder``."""

    endpoints: Endpoints
    server: str = ""
    folder: str = ""


def signup(
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
    ca: Ca = None,
    fingerprint: Fingerprint = "",
    invite_file: InviteFile = None,
    device: Device = "",
    password_stdin: PasswordStdin = False,
) -> None:
    """Make an account and sign in; the account is the current one from then on."""
    invite = prompts.invitation(invite_file)

    async def sign_up(sign_in: SignIn) -> None:
        what = f"password for {sign_in.user}"
        password = prompts.password(what, from_stdin=password_stdin, twice=True)
        try:
            await sign_in.by_sign_up(password, invite)
        except Denied as error:
            typed = prompts.invitation(None, needed=error.code == Code.FORBIDDEN and not invite)
            if not typed:
                raise
            await sign_in.by_sign_up(password, typed)

    typer.echo(f"signed up at {_enter(wish_of(server, cluster, user), ca, fingerprint, device, sign_up)}")


def login(
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
    ca: Ca = None,
    fingerprint: Fingerprint = "",
    device: Device = "",
    password_stdin: PasswordStdin = False,
) -> None:
    """Sign in; the account is the current one from then on."""

    async def sign_in_(sign_in: SignIn) -> None:
        what = f"password of {sign_in.user}"
        await sign_in.with_password(prompts.password(what, from_stdin=password_stdin))

    typer.echo(f"signed in at {_enter(wish_of(server, cluster, user), ca, fingerprint, device, sign_in_)}")


def _enter(
    wish: Wish, ca: Path | None, fingerprint: str, device: str, how: Callable[[SignIn], Awaitable[None]]
) -> str:
    """Sign in somehow, make it the current profile; where and as whom, in words."""
    profiles = Profiles()

    async def enter() -> str:
        user, place = await _place(wish, ca, fingerprint, profiles)
        endpoints = place.endpoints
        async with AuthClient(endpoints.auth_url, endpoints.tls()) as auth:
            cluster = (await auth.keys()).cluster
            new = Credentials(cluster, user, server=place.server, folder=place.folder, ca=endpoints.ca_pem)
            await how(SignIn(auth, profiles.file(cluster, user), new, device=device or socket.gethostname()))
        profiles.make_current(cluster, user)
        return f"{endpoints.auth_url} as {user}"

    return trio.run(enter)


async def _place(wish: Wish, ca: Path | None, fingerprint: str, profiles: Profiles) -> tuple[str, Place]:
    """Who is to sign in, and where; the server is trusted then."""
    if wish.server:
        profiled = None
        server, folder = same_form(wish.server), wish.cluster
    else:
        choice = chosen(wish, profiles)
        profiled, server, folder = choice.profile, choice.server, choice.folder
    user = wish.user or (profiled.user if profiled else user_name())
    if folder is not None:
        return user, Place(load_cluster(folder), folder=str(folder))
    known = next((each.ca for each in profiles.all() if each.server == server and each.ca), "")
    remote(server, None, None)  # is it a server at all?
    if ca is not None:
        pem = prompts.secret_in(ca, "certificate")
    elif known and not fingerprint:
        pem = known
    else:
        pem = await trusted_ca(server, fingerprint=fingerprint) if server.startswith("https:") else ""
    return user, Place(remote(server, None, None, pem), server=server)


def logout(server: Server = "", cluster: Cluster = None, user: User = "") -> None:
    """Sign out: the server forgets this sign-in, this machine forgets the profile."""
    profiles = Profiles()
    wish = wish_of(server, cluster, user)
    profile = chosen(wish, profiles).profile
    if profile is None:
        raise Refused(Code.NOT_FOUND, "nobody is signed in by that name: cv profiles lists who is")

    async def sign_out(people: People) -> None:
        try:
            await people.log_out()
        except Denied as error:
            if error.code != Code.UNAUTHORIZED:
                raise  # it has ended already otherwise

    run(wish, sign_out)
    profiles.remove(profile.cluster, profile.user)
    typer.echo(f"{profile.user} is signed out of {profile.server or profile.folder}")


def whoami(server: Server = "", cluster: Cluster = None, user: User = "", as_json: AsJson = False) -> None:
    """Show who you are to the server, and from which device."""

    async def ask(people: People) -> None:
        who = await people.whoami()
        if as_json:
            show_json(who)
            return
        admin = ", an administrator" if who.admin else ""
        typer.echo(f"{who.user} at {people.where}{admin}")
        typer.echo(f"cluster {who.cluster}, device {who.device_id} ({who.device})")

    run(wish_of(server, cluster, user), ask)


def passwd(
    server: Server = "", cluster: Cluster = None, user: User = "", password_stdin: PasswordStdin = False
) -> None:
    """Change your password; all your other sign-ins end. From standard input: the old one, then the new one."""

    async def change(people: People) -> None:
        await people.whoami()  # so that there is an account to speak of
        kept = await people.sign_in.kept()
        made_up = kept.password if kept else ""
        old = made_up or prompts.password("old password", from_stdin=password_stdin)
        await people.change_password(
            old, prompts.password("new password", from_stdin=password_stdin, twice=True)
        )
        if made_up:
            await people.sign_in.forget_password()
        typer.echo("changed; your other sign-ins have ended")

    run(wish_of(server, cluster, user), change)


profiles = typer.Typer(help="List who is signed in where from this machine; choose the current one.")


@profiles.callback(invoke_without_command=True)
def list_profiles(context: typer.Context, as_json: AsJson = False) -> None:
    """List who is signed in where from this machine."""
    if context.invoked_subcommand is not None:
        return
    store = Profiles()
    current = store.current()
    rows = [
        {
            "current": profile == current,
            "user": profile.user,
            "server": profile.server or profile.folder,
            "cluster": profile.cluster,
        }
        for profile in store.all()
    ]
    columns = {
        "": lambda row: "*" if row["current"] else "",
        "USER": lambda row: row["user"],
        "SERVER": lambda row: row["server"],
        "CLUSTER": lambda row: row["cluster"],
    }
    show(rows, columns, as_json=as_json, none="nobody is signed in anywhere: cv login --server URL")


@profiles.command("use")
def use_profile(
    user: Annotated[str, typer.Argument(metavar="USER", help="Who is meant from now on.")],
    server: Server = "",
) -> None:
    """Make a profile the current one."""
    store = Profiles()
    profile = chosen(Wish(server=server, user=user), store).profile
    if profile is None:
        raise Refused(Code.NOT_FOUND, f"{user} is not signed in{f' at {server}' if server else ''}: cv login")
    store.make_current(profile.cluster, profile.user)
    say(f"{profile.user} at {profile.server or profile.folder} is current now")
