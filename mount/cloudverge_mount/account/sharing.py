"""The verbs ``cv grant``, ``grants``, ``link``, ``links``, ``revoke``: giving parts of a space, taking them back."""

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cloudverge_mount.account import prompts
from cloudverge_mount.account.answers import Grant
from cloudverge_mount.account.flags import AsJson, Cluster, PasswordStdin, Server, Until, User, wish_of
from cloudverge_mount.account.opening import run
from cloudverge_mount.account.paths import Found, find, locate_here, refuse_in_grant, wish_for
from cloudverge_mount.account.people import Body, People
from cloudverge_mount.account.printing import say, show, show_json
from cloudverge_mount.account.when import parse_when, show_when
from cloudverge_protocol.errors import Code, Refused

PathText = Annotated[str, typer.Argument(metavar="PATH", help="In a mount of yours, or SPACE:PATH.")]


def grant(
    path: PathText,
    to: Annotated[str, typer.Option("--to", metavar="USER", help="Who gets it.", show_default=False)] = "",
    token: Annotated[
        str, typer.Option("--token", metavar="LABEL", help="Make a token for a machine.", show_default=False)
    ] = "",
    rw: Annotated[bool, typer.Option("--rw/--ro", help="To change it too, or only to read it.")] = False,
    until: Until = "",
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="Write the token there, not to stdout."),
    ] = None,
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
    as_json: AsJson = False,
) -> None:
    """Give a folder to a user, or to a machine by a token that is shown once."""
    if bool(to) == bool(token):
        raise Refused(Code.INVALID, "say who gets it: --to USER, or --token LABEL for a machine")
    if token_file is not None and not token:
        raise Refused(Code.INVALID, "--token-file is for --token LABEL")
    end = _end_of(until)
    located = locate_here(path)
    refuse_in_grant(located)

    async def give(people: People) -> None:
        found = await find(people, located)
        if found.thing.kind != "folder":
            raise Refused(Code.NOT_DIR, f"{found.path} is no folder: cv link gives a single file")
        body: Body = {"space": found.space, "root": found.thing.ino, "path": found.path, "rw": rw, **end}
        with _SecretFile(token_file) as file:
            made = await people.grant(body | ({"to": to} if to else {"label": token}))
            file.write(made.token or "")
        what = f"grant {made.id}: {to or token} may {'change' if rw else 'read'} {found.path}{_until(end)}"
        if as_json:
            show_json({"id": made.id} | ({"token": made.token} if token and token_file is None else {}))
        elif token and token_file is None:
            say(f"{what}; its token is shown this once")
            typer.echo(made.token)
        else:
            typer.echo(what)

    run(wish_for(located, wish_of(server, cluster, user)), give)


def link(
    path: PathText,
    until: Until = "",
    password: Annotated[bool, typer.Option("--password", help="Ask for a password that opens it.")] = False,
    password_stdin: PasswordStdin = False,
    max_downloads: Annotated[
        int | None, typer.Option("--max-downloads", metavar="N", min=1, help="After these it opens no more.")
    ] = None,
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
    as_json: AsJson = False,
) -> None:
    """Make a public link to a file; whoever has it can download the file."""
    end = _end_of(until)
    located = locate_here(path)
    refuse_in_grant(located)
    secret = ""
    if password or password_stdin:
        secret = prompts.password("password of the link", from_stdin=password_stdin, twice=True)

    async def make(people: People) -> None:
        found = await find(people, located)
        if found.thing.kind != "file":
            raise Refused(Code.IS_DIR, f"{found.path} is no file: cv grant gives a folder")
        made = await people.link(_link_body(found, end, secret, max_downloads))
        if as_json:
            show_json(made)
        else:
            say(f"link {made.id} to {found.path}{_until(end)}; its address is shown this once")
            typer.echo(made.url)

    run(wish_for(located, wish_of(server, cluster, user)), make)


def _link_body(found: Found, end: dict[str, int], secret: str, max_downloads: int | None) -> Body:
    body: Body = {"space": found.space, "ino": found.thing.ino, "path": found.path, **end}
    if secret:
        body["password"] = secret
    if max_downloads is not None:
        body["max_downloads"] = max_downloads
    return body


def grants(server: Server = "", cluster: Cluster = None, user: User = "", as_json: AsJson = False) -> None:
    """List what you granted to users and machines, and what was granted to you."""

    async def ask(people: People) -> None:
        columns = {
            "ID": lambda each: each.id,
            "": lambda each: each.direction,
            "PATH": _path_of,
            "TO": lambda each: each.to or f"machine {each.label}",
            "RIGHT": lambda each: "read and write" if each.rw else "read",
            "BY": lambda each: each.by,
            "UNTIL": _end_in_words,
        }
        found = [each for each in await people.grants() if each.kind != "link"]
        show(found, columns, as_json=as_json, none="no grants: cv grant PATH --to USER makes one")
        if not as_json and any(each.direction == "received" for each in found):
            say("cvmount --grant ID DIR mounts what you received")

    run(wish_of(server, cluster, user), ask)


def links(server: Server = "", cluster: Cluster = None, user: User = "", as_json: AsJson = False) -> None:
    """List the public links in your spaces, and how often each was used."""

    async def ask(people: People) -> None:
        columns = {
            "ID": lambda each: each.id,
            "PATH": _path_of,
            "BY": lambda each: each.by,
            "DOWNLOADS": lambda each: (
                f"{each.downloads or 0}" + (f" of {each.max_downloads}" if each.max_downloads else "")
            ),
            "UNTIL": _end_in_words,
        }
        found = [each for each in await people.grants() if each.kind == "link"]
        show(found, columns, as_json=as_json, none="no links: cv link FILE makes one")

    run(wish_of(server, cluster, user), ask)


def revoke(
    number: Annotated[int, typer.Argument(metavar="ID", min=1, help="Of a grant, a token or a link.")],
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
) -> None:
    """Take back a grant, a machine's token or a link."""

    async def ask(people: People) -> None:
        await people.revoke(number)
        typer.echo(f"{number} is revoked")

    run(wish_of(server, cluster, user), ask)


def _path_of(found: Grant) -> str:
    return f"{found.space_name or found.space}:{found.path.strip('/')}"


def _end_in_words(found: Grant) -> str:
    return show_when(found.until or None, "no end")


def _end_of(until: str) -> dict[str, int]:
    return {"until": parse_when(until, time.time())} if until else {}


def _until(end: dict[str, int]) -> str:
    return f" until {show_when(end['until'])}" if end else ""


class _SecretFile:
    """A new file of mode 0600, made before there is a secret to lose, and removed if there comes to be none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> "_SecretFile":
        if self._path is not None:
            try:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise Refused(Code.INVALID, f"{self._path} cannot be made: {error.strerror}") from None
        return self

    def write(self, secret: str) -> None:
        """Keep the secret."""
        if self._fd >= 0:
            os.write(self._fd, f"{secret}\n".encode())

    def __exit__(self, kind: object, error: object, traceback: Any) -> None:  # noqa: ANN401
        if self._fd >= 0:
            os.close(self._fd)
            if error is not None and self._path is not None:
                self._path.unlink(missing_ok=True)
