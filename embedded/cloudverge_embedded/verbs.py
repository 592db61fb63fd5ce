"""The verbs ``cv up`` and ``cv down``."""

from pathlib import Path
from typing import Annotated

import asyncpg  # noqa: F401  a host without the extra shall hear of it here, not from a child's log
import msgspec
import typer

from cloudverge_embedded.certificates import fingerprint
from cloudverge_embedded.folder import Folder, default_root
from cloudverge_embedded.launcher import bring_down, bring_up
from cloudverge_embedded.report import Report
from cloudverge_embedded.settings import Restart, Wish

_Dir = Annotated[
    Path | None, typer.Option("--dir", help="The cluster's folder.", show_default="your data folder")
]


def up(
    folder: _Dir = None,
    chunkservers: Annotated[
        int | None, typer.Option(min=1, max=64, help="How many; may grow later.", show_default="3")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, max=8, help="Copies of each chunk.", show_default="2")
    ] = None,
    restart: Annotated[
        Restart | None, typer.Option(help="What happens to a child that dies.", show_default="always")
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="Encrypt every wire, on this machine too; for good.")
    ] = False,
    listen: Annotated[
        str | None,
        typer.Option(
            help="Address of this machine by which others reach it; with TLS.", show_default="127.0.0.1"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Start a cluster on this machine, or what is missing of it.

    Returns when all is ready. On a running cluster it changes nothing but what is asked for.
    """
    root = _absolute(folder)
    report = bring_up(root, Wish(chunkservers, replicas, restart, tls, listen))
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        typer.echo(_summary(root, report))


def down(folder: _Dir = None) -> None:
    """Stop a cluster of this machine cleanly; its data stays."""
    root = _absolute(folder)
    typer.echo(f"stopped the cluster in {root}" if bring_down(root) else f"no cluster runs in {root}")


def _absolute(folder: Path | None) -> Path:
    return folder.expanduser().absolute() if folder else default_root()


def _summary(root: Path, report: Report) -> str:
    servers = report["servers"]
    count = sum(1 for server in servers if server["data_dir"]) if isinstance(servers, list) else 0
    lines = [f"the cluster in {root} is up: {count} servers, auth at {report['auth_url']}"]
    if ca := report.get("ca"):
        shown = fingerprint((root / str(ca)).read_bytes())
        lines += [
            f"sign in on other machines: cv login --server {report['auth_url']} --user NAME",
            f"fingerprint of its CA: {' '.join(shown[at : at + 4] for at in range(0, len(shown), 4))}",
            f"the first administrator's invitation, good once: {Folder(root).admin_invitation}",
        ]
    return "\n".join(lines)
