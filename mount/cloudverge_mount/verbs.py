"""The verbs ``cv status``, ``cv sync`` and ``cv install-helper``."""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cloudverge_mount.control import ask
from cloudverge_mount.mountpoints import resolve
from cloudverge_mount.progress import show, size_in_words
from cloudverge_mount.registry import MountRecord, all_mounts
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, Refused, Unavailable

WATCH_EVERY_S: Final = 1.0
CLEAR_SCREEN: Final = "\033[2J\033[H"
STATUS_TIMEOUT_S: Final = 5.0
HELPER: Final = "mount.fuse.cloudverge"
HELPER_FOLDERS: Final = (Path("/sbin"), Path("/usr/sbin"))  # where mount(8) looks


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show your mounts: what is pending, the lease, the cache, and what is not as it should be."""
    while True:
        standing = {"mounts": [_status_of(record) for record in all_mounts()]}
        if watch and not as_json:
            typer.echo(CLEAR_SCREEN, nl=False)
        typer.echo(json.dumps(standing) if as_json else _in_words(standing["mounts"]))
        if not watch:
            return
        time.sleep(WATCH_EVERY_S)


def _status_of(record: MountRecord) -> dict[str, Any]:
    try:
        return next(ask(Path(record.socket), "status", STATUS_TIMEOUT_S))
    except (CloudVergeError, StopIteration) as error:
        return {
            "mountpoint": record.mountpoint,
            "pid": record.pid,
            "space": record.space,
            "lease": "DORMANT",
            "pending_files": 0,
            "pending_bytes": 0,
            "pending_entries": 0,
            "cache_bytes": 0,
            "servers": [],
            "degraded": [f"the mount's process does not answer: {error}"],
        }


def _in_words(mounts: list[dict[str, Any]]) -> str:
    if not mounts:
        return "nothing is mounted"
    return "\n\n".join(_mount_in_words(mount) for mount in mounts)


def _mount_in_words(mount: dict[str, Any]) -> str:
    lines = [
        f"{mount['mountpoint']}  (space {mount['space']}, process {mount['pid']}, lease {mount['lease']})",
        f"  pending  {mount['pending_files']} files, {size_in_words(mount['pending_bytes'])}, "
        f"{mount['pending_entries']} changes",
        f"  cache    {size_in_words(mount['cache_bytes'])}",
    ]
    for server in mount.get("servers", []):
        free = size_in_words(server.get("free_bytes") or 0)
        lines.append(f"  server   {server.get('name')}: {server.get('state')}, {free} free")
    fuse = mount.get("fuse") or {}
    if fuse.get("missing"):
        lines.append(f"  fuse     {fuse['binding']}; this kernel lacks {', '.join(fuse['missing'])}")
    lines += [f"  degraded {reason}" for reason in mount["degraded"]]
    return "\n".join(lines)


def sync(
    path: Annotated[Path | None, typer.Argument(help="In the mount that is meant; else all of them.")] = None,
) -> None:
    """Wait until everything written so far is on the servers' disks and committed."""
    mounts = all_mounts()
    if path is not None:
        mounts = [_mount_above(resolve(path), mounts)]
    if not mounts:
        raise Refused(Code.NOT_FOUND, "nothing is mounted")
    for record in mounts:
        show(ask(Path(record.socket), "sync"))


def _mount_above(path: Path, mounts: list[MountRecord]) -> MountRecord:
    for record in mounts:
        mountpoint = Path(record.mountpoint)
        if mountpoint == path or mountpoint in path.parents:
            return record
    raise Refused(Code.NOT_FOUND, f"{path} is in no CloudVerge mount of yours")


def install_helper(
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Where mount(8) looks.", show_default="/sbin")
    ] = None,
) -> None:
    """Link the helper of mount(8), so that mount -t fuse.cloudverge and fstab work."""
    target = folder or next((each for each in HELPER_FOLDERS if each.is_dir()), HELPER_FOLDERS[0])
    beside = Path(sys.executable).parent / HELPER
    found = str(beside) if beside.exists() else shutil.which(HELPER)
    if found is None:
        raise Unavailable(Code.UNAVAILABLE, f"there is no {HELPER} beside {sys.executable}")
    link = target / HELPER
    try:
        scratch = target / f".{HELPER}.{os.getpid()}"
        scratch.symlink_to(found)
        scratch.replace(link)
    except PermissionError:
        raise Denied(Code.FORBIDDEN, f"{target} is root's: run it as root, or name another folder") from None
    except OSError as error:
        raise Refused(Code.INVALID, f"{link} cannot be made: {error.strerror}") from None
    typer.echo(f"{link} -> {found}")
