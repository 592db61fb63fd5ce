"""The options that many verbs have. None of them takes a secret: those come by a prompt, standard input, or a file."""

from pathlib import Path
from typing import Annotated

import typer

from cloudverge_mount.account.choice import Wish

Server = Annotated[
    str, typer.Option("--server", metavar="URL", help="Of the auth server.", show_default=False)
]
Cluster = Annotated[
    Path | None, typer.Option("--cluster", metavar="DIR", help="Folder of a cluster of this machine.")
]
User = Annotated[str, typer.Option("--user", metavar="NAME", help="Your name there.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read it from standard input.")]
Until = Annotated[
    str,
    typer.Option(
        "--until", metavar="WHEN", help="7d, 12h, 2027-01-01, 2027-01-01T18:00.", show_default=False
    ),
]


def wish_of(server: str, cluster: Path | None, user: str) -> Wish:
    """What was said of the account that is meant."""
    return Wish(server, cluster.expanduser().absolute() if cluster else None, user)
