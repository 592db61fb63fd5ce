"""``cvumount``: wait until everything is uploaded and committed, unmount, wait until the mount's process has ended.

Uploading first keeps the mount usable while it takes long; what is written meanwhile is uploaded by the process as
it ends, or by the next mount. ``--force`` skips the waiting and takes the mountpoint away even when it is busy.
"""

import argparse
import contextlib
import os
import select
import signal
import sys
from pathlib import Path
from typing import Final, NoReturn

from cloudverge_mount.control import ask
from cloudverge_mount.exits import complain
from cloudverge_mount.mountpoints import mounted_at, resolve, unmount
from cloudverge_mount.progress import show
from cloudverge_mount.registry import MountRecord, all_mounts, is_alive, mount_at
from cloudverge_protocol.errors import CloudVergeError, Code, Refused, Unavailable

PATIENT_S: Final = 1.0
END_WAIT_S: Final = 30.0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="cvumount", description="Wait until everything is uploaded, then unmount a CloudVerge mount."
    )
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument(
        "--force", "--lazy", "-f", "-l", dest="force", action="store_true",
        help="unmount now, even if it is in use: what is not uploaded yet stays in the cache folder for the next mount",
    )  # fmt: skip
    return parser


def find(mountpoint: Path) -> MountRecord | None:
    """The mount at this path; None if its process is gone but the mountpoint is still there. Raises Refused."""
    record = mount_at(mountpoint)
    if record is not None:
        return record
    there = mounted_at(mountpoint)
    if there is not None and there.kind.startswith("fuse"):
        return None
    known = ", ".join(record.mountpoint for record in all_mounts()) or "none"
    raise Refused(Code.NOT_FOUND, f"{mountpoint} is no CloudVerge mount of yours (there are: {known})")


def drain(record: MountRecord) -> None:
    """Wait until all is uploaded and committed; raises when that cannot be, unless it never can."""
    try:
        show(ask(Path(record.socket), "sync"))
    except CloudVergeError as error:
        if reason := right_ended(record):
            print(f"cvumount: {reason}", file=sys.stderr)
            return
        raise type(error)(
            error.code,
            f"not everything could be uploaded: {error.message}. The mount stays; --force leaves the rest to the "
            "next mount with this cache folder",
        ) from None


def right_ended(record: MountRecord) -> str:
    """Why the mount has nothing to upload any more: its right was taken away; empty: it was not."""
    with contextlib.suppress(CloudVergeError):
        return "".join(answer.get("right_ended", "") for answer in ask(Path(record.socket), "status"))
    return ""


def wait_until_ended(record: MountRecord) -> None:
    """Wait for the process that served the mount; told to end if somebody still holds what we unmounted."""
    try:
        handle = os.pidfd_open(record.pid)
    except OSError:
        return
    try:
        if not is_alive(record) or _ends_within(handle, PATIENT_S):
            return
        with contextlib.suppress(CloudVergeError):
            list(ask(Path(record.socket), "end"))
        if not _ends_within(handle, END_WAIT_S):
            raise Unavailable(
                Code.TIMEOUT, f"unmounted, but process {record.pid} is still busy with its journal"
            )
    finally:
        os.close(handle)


def _ends_within(handle: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def unmount_and_wait(mountpoint: Path, *, force: bool) -> None:
    """Do it all."""
    record = find(mountpoint)
    if record is not None and not force:
        drain(record)
    unmount(mountpoint, lazy=force or record is None)
    if record is not None:
        if force:
            os.kill(record.pid, signal.SIGTERM)
        wait_until_ended(record)


def main() -> NoReturn:
    """Entry point of ``cvumount``."""
    arguments = build_parser().parse_args()
    try:
        unmount_and_wait(resolve(arguments.mountpoint), force=arguments.force)
    except CloudVergeError as error:
        sys.exit(complain("cvumount", error))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


if __name__ == "__main__":
    main()
