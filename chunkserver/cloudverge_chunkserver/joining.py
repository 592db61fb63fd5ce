"""The verb ``cv join``: this machine's disk becomes part of a cluster elsewhere.

The first time it enrols (``enrolment``) and keeps what it was given (``nodefolder``); with these files it only starts
the chunkserver again, so the same line can be given any number of times. In the foreground this process becomes
the chunkserver; whoever wants it back after a crash or a reboot has it started by systemd. In the background it is
started once and watched by nobody.
"""

import datetime
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import fastapi  # noqa: F401  a host without the extra shall hear of it before a code is spent
import msgspec
import platformdirs
import typer

from cloudverge_chunkserver.enrolment import enrol, fetch_authority
from cloudverge_chunkserver.nodefolder import Node, NodeFolder, address_towards, free_port
from cloudverge_protocol.errors import Code, Denied, Refused, Unavailable

READY_WITHIN_S: Final = 30.0
ROOT_FOLDER: Final = Path("/var/lib/cloudverge-node")


class Wanted(msgspec.Struct, frozen=True):
    """What the command line asked for; empty: as before, or the default."""

    url: str = ""
    code: str = ""
    fingerprint: str = ""
    listen: str = ""
    rack: str = ""


def join(
    url: Annotated[str, typer.Argument(help="The cluster, as cv add-node printed it.")] = "",
    code: Annotated[str, typer.Argument(help="The one-time code.")] = "",
    fingerprint: Annotated[str, typer.Option(help="SHA-256 of the cluster's CA.")] = "",
    folder: Annotated[
        Path | None,
        typer.Option("--dir", help="For chunks and keys.", show_default="beside your data folder"),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(help="This machine's address for others.", show_default="the one towards the cluster"),
    ] = "",
    rack: Annotated[str, typer.Option(help="Copies are put in different racks.")] = "",
    background: Annotated[bool, typer.Option("--background", help="Start it, and return.")] = False,
) -> None:
    """Bring this machine's disk into a cluster, with the line that cv add-node printed there.

    Later cv join alone (with --dir, if one was given) starts it again: for systemd, ExecStart=cv join.
    """
    place = NodeFolder(folder.expanduser().absolute() if folder else default_folder())
    node = settle(place, Wanted(url.rstrip("/"), code, fingerprint, listen, rack))
    if background:
        typer.echo(
            f"joined cluster {node.cluster}: chunkserver {_start(place, node)} at {node.host}, {place.log}"
        )
        return
    typer.echo(f"joined cluster {node.cluster}: serving {place.data} at {node.host}", err=True)
    command = server_command(place, node)
    os.execv(command[0], command)  # noqa: S606  no shell is what we want


def default_folder() -> Path:
    """Where a storage host keeps its chunks."""
    return ROOT_FOLDER if os.geteuid() == 0 else platformdirs.user_data_path("cloudverge-node")


def settle(place: NodeFolder, wanted: Wanted) -> Node:
    """This machine as a member of the cluster, enrolled now if need be."""
    known = place.load()
    if known is None:
        return _enrol(place, wanted, None)
    if wanted.url not in ("", known.auth_url):  # the cluster has moved, or it is another one
        return _enrol(place, wanted, known)
    host = wanted.listen or known.host
    if place.is_certified(host, datetime.datetime.now(datetime.UTC)):
        node = msgspec.structs.replace(known, host=host, rack=wanted.rack or known.rack)
        if node != known:
            place.save_node(node)
        return node
    return _renew(place, wanted, known)


def _renew(place: NodeFolder, wanted: Wanted, known: Node) -> Node:
    """The certificate runs out soon, or is for another address: a fresh code is needed."""
    if wanted.code:
        return _enrol(place, wanted, known)
    if wanted.listen not in ("", known.host):
        raise Refused(
            Code.INVALID, f"the certificate is not for {wanted.listen}: take a new code of cv add-node"
        )
    typer.echo("the certificate of this storage host runs out soon: take a new code of cv add-node", err=True)
    return known


def _enrol(place: NodeFolder, wanted: Wanted, known: Node | None) -> Node:
    if not (wanted.url and wanted.code and wanted.fingerprint):
        raise Refused(
            Code.INVALID,
            f"give the whole line that cv add-node printed: {place.root} has not joined that cluster yet",
        )
    authority = fetch_authority(wanted.url, wanted.fingerprint)
    if known is not None and place.authority.read_text() != authority:
        raise Denied(Code.FORBIDDEN, f"{place.root} belongs to another cluster: give this one another --dir")
    host = wanted.listen or (known.host if known else address_towards(urlsplit(wanted.url).hostname or ""))
    port = known.port if known else free_port(host)
    frame_port = known.frame_port if known else free_port(host, taken=port)
    enrolled = enrol(wanted.url, authority, wanted.code, place.ensure_key(), host, socket.gethostname())
    rack = wanted.rack or (known.rack if known else "")
    node = Node(enrolled.cluster, wanted.url, enrolled.metaserver_url, host, port, frame_port, rack)
    place.save(enrolled, authority, node)
    return node


def server_command(place: NodeFolder, node: Node) -> list[str]:
    """How the chunkserver is started. No secret is among it, only files that hold some."""
    options = {
        "--data-dir": place.data,
        "--metaserver-url": node.metaserver_url,
        "--join-token-file": place.join_token,
        "--host": node.host,
        "--port": node.port,
        "--frame-port": node.frame_port,
        "--tls-ca": place.authority,
        "--tls-certificate": place.certificate,
        "--tls-key": place.key,
        "--ready-file": place.ready,
    }
    if node.rack:
        options["--rack"] = node.rack
    flags = [str(part) for option in options.items() for part in option]
    return [sys.executable, "-P", "-m", "cloudverge_chunkserver", *flags]


def _start(place: NodeFolder, node: Node) -> int:
    """The chunkserver's pid, once it is ready."""
    place.ready.unlink(missing_ok=True)
    log = os.open(place.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            server_command(place, node), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
            umask=0o077, start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(log)
    give_up_at = time.monotonic() + READY_WITHIN_S
    while not place.ready.exists():
        if process.poll() is not None:
            raise Unavailable(Code.UNAVAILABLE, f"the chunkserver ended: see {place.log}")
        if time.monotonic() > give_up_at:
            process.terminate()
            raise Unavailable(Code.TIMEOUT, f"the metaserver has not admitted this host yet: see {place.log}")
        time.sleep(0.05)
    return process.pid
