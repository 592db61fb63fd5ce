"""A mount served through pyfuse3. One per process: pyfuse3 keeps it in globals."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pyfuse3
import structlog
import trio

from cloudverge_mount import shim
from cloudverge_mount.binding import Binding
from cloudverge_mount.filesystem import FileSystem
from cloudverge_mount.fusehook import FuseHook
from cloudverge_mount.importslots import Unsupported
from cloudverge_mount.kernelmount import KernelMount
from cloudverge_protocol.errors import Code, Refused

WORKERS_MIN: Final = 4  # idle ones that are kept
WORKERS_MAX: Final = 99

_log = structlog.get_logger()


class PyfuseMount(KernelMount):
    """See ``KernelMount``."""

    def __init__(self, files: FileSystem, mountpoint: Path, options: set[str], patience_s: float) -> None:
        super().__init__(mountpoint, options)
        self._workers = shim.Workers(patience_s)
        self._binding = Binding(files, self._workers)
        self._hook = FuseHook()

    def _attach(self) -> None:
        try:
            self._hook.install()
        except Unsupported as reason:
            _log.info("the kernel is asked for less than it could do", reason=str(reason))
        try:
            pyfuse3.init(self._binding, str(self._mountpoint), self._options)
        except RuntimeError as error:
            raise Refused(Code.NOT_PERMITTED, f"{self._mountpoint} cannot be mounted: {error}") from None

    async def serve(self) -> None:
        """See ``KernelMount``."""
        shim.install(self._workers)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._workers.watch_deadlines)
                await pyfuse3.main(min_tasks=WORKERS_MIN, max_tasks=WORKERS_MAX)
                nursery.cancel_scope.cancel()
        finally:
            self.ended = True
            shim.uninstall(self._workers)

    def bar(self) -> Iterable[int]:
        """See ``KernelMount``."""
        self._binding.bar()
        return ()

    def invalidate_inode(self, ino: int) -> None:
        """See ``KernelMount``."""
        pyfuse3.invalidate_inode(ino)

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """See ``KernelMount``."""
        pyfuse3.invalidate_entry(parent, name)

    def _terminate(self) -> None:
        pyfuse3.terminate()

    def _detach(self, *, unmount: bool) -> None:
        pyfuse3.close(unmount=unmount)
