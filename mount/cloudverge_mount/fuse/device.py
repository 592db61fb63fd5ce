"""The device: mounting, and the descriptor that requests come from.

Root mounts with mount(2) and needs no program for it; everybody else asks fusermount3(1), which is setuid, checks what
it must, mounts, and passes the descriptor back over a socket. Nothing here reads or writes the descriptor, or looks at
what is mounted.
"""

import array
import ctypes
import os
import socket
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

DEVICE: Final = "/dev/fuse"
HELPER: Final = "fusermount3"
HELPER_WAIT_S: Final = 20.0

# mount(2)
_FLAGS: Final = {
    "ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "dirsync": 128, "noatime": 1024, "nodiratime": 2048,
    "relatime": 1 << 21, "strictatime": 1 << 24,
}  # fmt: skip
_LIFTED: Final = {
    "suid": "nosuid", "dev": "nodev", "exec": "noexec", "async": "sync", "atime": "noatime", "diratime": "nodiratime",
    "norelatime": "relatime", "nostrictatime": "strictatime",
}  # fmt: skip
_OF_THE_KERNEL: Final = frozenset(("default_permissions", "allow_other"))


class Cannot(Exception):
    """It could not be mounted; says why, in words for people."""


class MountCall(NamedTuple):
    """Arguments of mount(2) but for the descriptor and the mountpoint."""

    source: str
    kind: str
    flags: int
    data: str


def mount_call(words: Iterable[str]) -> MountCall:
    """What options in the words of mount(8) are to mount(2). Pure."""
    source, kind, data = "fuse", "fuse", []
    chosen = {"nosuid", "nodev"}
    for word in words:
        name, _, value = word.partition("=")
        if name == "fsname":
            source = value
        elif name == "subtype":
            kind = f"fuse.{value}"
        elif name in _FLAGS:
            chosen.add(name)
        elif name in _LIFTED:
            chosen.discard(_LIFTED[name])
        elif name == "allow_root":
            data.append("allow_other")  # the rest is for who answers the requests
        elif name in _OF_THE_KERNEL or name == "context":
            data.append(word)
    return MountCall(source, kind, sum(_FLAGS[name] for name in chosen), ",".join(dict.fromkeys(data)))


def mount(mountpoint: Path, words: Iterable[str]) -> int:
    """Mount with these options; the device, not blocking: the kernel's INIT is there to be read. Raises Cannot."""
    chosen = sorted(words)
    try:
        if os.geteuid() == 0:
            return _mount_as_root(mountpoint, mount_call(chosen))
        return _ask_helper(mountpoint, chosen)
    except OSError as error:
        raise Cannot(error.strerror or str(error)) from error


def _mount_as_root(mountpoint: Path, call: MountCall) -> int:
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        kind = stat.S_IFMT(os.stat(mountpoint).st_mode)
        data = f"fd={fd},rootmode={kind:o},user_id={os.getuid()},group_id={os.getgid()}"
        _mount(call, mountpoint, f"{data},{call.data}" if call.data else data)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _mount(call: MountCall, mountpoint: Path, data: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount.argtypes = (ctypes.c_char_p,) * 3 + (ctypes.c_ulong, ctypes.c_char_p)
    texts = [os.fsencode(text) for text in (call.source, str(mountpoint), call.kind)]
    if libc.mount(*texts, call.flags, os.fsencode(data)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _ask_helper(mountpoint: Path, words: list[str]) -> int:
    """fusermount3 sends the descriptor through the socket whose number is in its environment."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        command = [HELPER, "-o", ",".join(_for_helper(words)), "--", str(mountpoint)]
        try:
            helper = subprocess.Popen(
                command,
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        except FileNotFoundError:
            raise Cannot(f"{HELPER} is not installed: apt install fuse3") from None
        theirs.close()
        ours.settimeout(HELPER_WAIT_S)
        try:
            fd = _received(ours)
            _, said = helper.communicate(timeout=HELPER_WAIT_S)
        except (TimeoutError, subprocess.TimeoutExpired):
            helper.kill()
            raise Cannot(f"{HELPER} does not answer") from None
    if fd < 0:
        raise Cannot(said.decode(errors="replace").strip() or f"{HELPER} failed")
    os.set_blocking(fd, False)
    os.set_inheritable(fd, False)
    return fd


def _for_helper(words: list[str]) -> list[str]:
    """fusermount3 knows no allow_root."""
    return list(dict.fromkeys("allow_other" if word == "allow_root" else word for word in words))


def _received(ours: socket.socket) -> int:
    """The descriptor that comes, or -1."""
    _, messages, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(array.array("i").itemsize))
    for level, kind, data in messages:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return array.array("i", data[: array.array("i").itemsize])[0]
    return -1
