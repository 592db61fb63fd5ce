"""A mount that speaks the kernel's protocol by itself: no libfuse, no compiler.

INIT is answered when it is mounted, before anybody can ask for anything: the kernel sends nothing else until then.
"""

import errno
import os
import select
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import structlog

from cloudverge_mount.directbinding import INTERRUPTIBLE, LONGER_S, DirectBinding
from cloudverge_mount.filesystem import FileSystem
from cloudverge_mount.fuse import device, notices
from cloudverge_mount.fuse.abi import READ_BUFFER_MIN, Init, Opcode
from cloudverge_mount.fuse.bodies import Init as Offer
from cloudverge_mount.fuse.device import Cannot
from cloudverge_mount.fuse.handshake import WANTED, Handshake, Unsupported, negotiate
from cloudverge_mount.fuse.requestloop import RequestLoop
from cloudverge_mount.fuse.requests import BadRequest, Decoder
from cloudverge_mount.kernelmount import BACKGROUND_MAX, KernelMount
from cloudverge_mount.mountpoints import unmount
from cloudverge_protocol.errors import CloudVergeError, Code, Refused

INIT_WAIT_S: Final = 10.0
_ACLS: Final = Init.POSIX_ACL | Init.DONT_MASK  # umasks are ours then: a default list takes their place
_log = structlog.get_logger()


class DirectMount(KernelMount):
    """See ``KernelMount``."""

    def __init__(
        self, files: FileSystem, mountpoint: Path, options: set[str], patience_s: float, *, acls: bool
    ) -> None:
        super().__init__(mountpoint, options)
        self._patience_s = patience_s
        self._wanted = WANTED | Init.ATOMIC_O_TRUNC | (_ACLS if acls else Init(0))
        self._files = files
        self._binding: DirectBinding | None = None
        self._fd = -1
        self._loop: RequestLoop | None = None

    def _attach(self) -> None:
        try:
            self._fd = device.mount(self._mountpoint, self._options)
            agreed = _shake_hands(self._fd, self._wanted)
        except (Cannot, Unsupported, BadRequest) as error:
            self._detach(unmount=self._fd >= 0)
            raise Refused(Code.NOT_PERMITTED, f"{self._mountpoint} cannot be mounted: {error}") from None
        self.missing = agreed.missing
        self.has_acls = _ACLS in agreed.flags
        only_uid = os.getuid() if "allow_root" in self._options else None
        # Who is not let in is turned away when he opens a folder, or never.
        opens_folders = only_uid is not None or Init.NO_OPENDIR_SUPPORT not in agreed.flags
        self._binding = DirectBinding(self._files, opens_folders=opens_folders)
        self._loop = RequestLoop(
            self._fd,
            Decoder(setxattr_ext=agreed.setxattr_ext),
            agreed.buffer_bytes,
            self._binding.handlers,
            self._binding.refuse,
            patience_s=self._patience_s,
            longer_s=LONGER_S,
            interruptible=INTERRUPTIBLE,
            only_uid=only_uid,
        )

    async def serve(self) -> None:
        """See ``KernelMount``."""
        assert self._loop is not None
        try:
            await self._loop.run()
        finally:
            self.ended = True

    def bar(self) -> Iterable[int]:
        """See ``KernelMount``."""
        assert self._binding is not None
        assert self._loop is not None
        self._binding.bar()
        self._loop.give_up_all(errno.EACCES)
        return self._binding.listed

    def invalidate_inode(self, ino: int) -> None:
        """See ``KernelMount``."""
        self._notify(notices.inval_inode(ino))

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """See ``KernelMount``."""
        self._notify(notices.inval_entry(parent, name))

    def _notify(self, notice: bytes) -> None:
        os.write(self._fd, notice)

    def _terminate(self) -> None:
        if self._loop is not None:
            self._loop.end()

    def _detach(self, *, unmount: bool) -> None:
        if unmount:
            self._unmount()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _unmount(self) -> None:
        try:
            unmount(self._mountpoint, lazy=True)
        except CloudVergeError as error:
            _log.warning("it could not be unmounted", reason=error.message)


def _shake_hands(fd: int, wanted: Init) -> Handshake:
    """Answer INIT; what is agreed on. Raises Cannot, Unsupported and BadRequest."""
    decoder, buffer = Decoder(), bytearray(READ_BUFFER_MIN)
    while True:
        if not select.select((fd,), (), (), INIT_WAIT_S)[0]:
            raise Cannot("the kernel does not begin to talk")
        request = decoder.decode(buffer, os.readv(fd, [buffer]))
        if request.opcode != Opcode.INIT or not isinstance(request.body, Offer):
            raise Cannot("the kernel does not begin with INIT")
        agreed = negotiate(
            request.body,
            wanted,
            max_background=BACKGROUND_MAX,
            congestion_threshold=BACKGROUND_MAX * 3 // 4,
        )
        os.write(fd, agreed.reply(request.unique))
        if not agreed.again:
            return agreed
