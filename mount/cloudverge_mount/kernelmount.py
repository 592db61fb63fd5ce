"""The mount in the kernel, whichever binding serves it: tuned, told what to forget, ended.

``bindings`` chooses the kind. Nothing here may look at the mountpoint: see ``mountpoints``.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import trio

from cloudverge_mount.autounmount import Tie
from cloudverge_mount.mountpoints import mounted_at, unmount_command
from cloudverge_mount.options import AUTO_UNMOUNT, MountOptions
from cloudverge_protocol.errors import Code, Refused

READ_AHEAD_KB: Final = 1024  # the kernel's default of 128 makes eight times as many requests
BACKGROUND_MAX: Final = 64  # asynchronous reads under way; the kernel's default is 12
PATIENCE_S: Final = 29.0  # of one request; I8 allows 30 s
LONG_PATIENCE_S: Final = 600.0  # of requests with a progress rule of their own
UNMOUNT_WAIT_S: Final = 10.0
DETACHED_WAIT_S: Final = 0.5  # for whoever still has files open after a lazy unmount


def fuse_options(options: MountOptions, space_name: str, uid: int) -> set[str]:
    """The options for the kernel and libfuse, for a mount by ``uid``. Pure.

    Where the kernel lets nobody but root in, there is nothing for it to check; see docs/decisions/0004.
    """
    chosen = {*options.kernel}
    if uid or not chosen.isdisjoint(("allow_other", "allow_root")):
        chosen.add("default_permissions")
    if not options.fsname:
        chosen.add(f"fsname=cloudverge:{space_name.replace(',', '_')}")
    return chosen


class KernelMount(ABC):
    """``attach``, then ``serve`` until it is unmounted, then ``detach``."""

    def __init__(self, mountpoint: Path, options: set[str]) -> None:
        self._mountpoint = mountpoint
        self._options = options - {AUTO_UNMOUNT}
        self._is_tied = AUTO_UNMOUNT in options
        self._tie: Tie | None = None
        self._device = ""
        self.missing: tuple[str, ...] = ()  # what this kernel cannot do, and is done without
        self.has_acls = False  # the kernel heeds access control lists, and leaves umasks to the file system
        self.ended = False

    def attach(self) -> None:
        """Mount; requests wait in the kernel until ``serve`` runs. Raises Refused."""
        self._attach()
        there = mounted_at(self._mountpoint)
        if there is not None:
            self._device = there.device
            _tune(there.device)
            self._tie = Tie(self._mountpoint, there.device) if self._is_tied else None

    @abstractmethod
    def _attach(self) -> None:
        """Mount. Raises Refused."""

    @abstractmethod
    async def serve(self) -> None:
        """Answer the kernel until the mount ends."""

    @abstractmethod
    def bar(self) -> Iterable[int]:
        """The right to the files is lost: every request fails from now on, those under way too.

        Returns folders that the kernel may hold listings of, beside those that are open.
        """

    @abstractmethod
    def invalidate_inode(self, ino: int) -> None:
        """Let the kernel forget attributes and pages of a file; may block. Raises OSError."""

    @abstractmethod
    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """Let the kernel forget a name; may block. Raises OSError."""

    @abstractmethod
    def _terminate(self) -> None:
        """Let ``serve`` return."""

    @abstractmethod
    def _detach(self, *, unmount: bool) -> None:
        """Close the kernel's side."""

    async def unmount(self) -> None:
        """Unmount from within: politely, or lazily when it is busy. ``serve`` returns then."""
        for lazy in (False, True):
            command = unmount_command(self._mountpoint, lazy=lazy)
            with trio.move_on_after(UNMOUNT_WAIT_S):
                ended = await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True)
                if ended.returncode == 0:
                    break
        with trio.move_on_after(UNMOUNT_WAIT_S if self._is_in_table() else DETACHED_WAIT_S):
            while not self.ended:  # noqa: ASYNC110  the kernel tells the binding, not us
                await trio.sleep(0.02)
        if not self.ended:
            self._terminate()

    def end_if_unmounted(self) -> None:
        """Stop serving what is no longer in our mount table, whoever else still holds it. Raises Refused(BUSY)."""
        if self._is_in_table():
            raise Refused(Code.BUSY, f"{self._mountpoint} is still mounted")
        if not self.ended:
            self._terminate()

    def detach(self) -> None:
        """Let go of the kernel's side, whatever state it is in; never of another mount that has taken our place."""
        self._detach(unmount=self._is_in_table())
        if self._tie is not None:
            self._tie.release()
            self._tie = None

    def _is_in_table(self) -> bool:
        there = mounted_at(self._mountpoint)
        return there is not None and there.device == self._device


def _tune(device: str) -> None:
    """Ask the kernel for larger and more reads; only root may have the first."""
    minor = device.partition(":")[2]
    connection = Path("/sys/fs/fuse/connections") / minor
    for file, value in (
        (Path("/sys/class/bdi") / device / "read_ahead_kb", READ_AHEAD_KB),
        (connection / "max_background", BACKGROUND_MAX),
        (connection / "congestion_threshold", BACKGROUND_MAX * 3 // 4),
    ):
        with contextlib.suppress(OSError):
            file.write_text(str(value))
