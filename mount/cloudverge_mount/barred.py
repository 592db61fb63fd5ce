"""The file system of somebody who has lost his right to it: everything fails, nothing is remembered.

It stands behind the binding from the moment the loss is known, so that no request of the kernel reaches rows or
bytes any more; what is closed and forgotten is closed and forgotten.
"""

from collections.abc import Awaitable, Callable
from typing import Final, NoReturn, cast

from cloudverge_mount.filesystem import FileSystem
from cloudverge_protocol.errors import Code, Denied

QUIET: Final = ("forget", "flush", "release", "releasedir")


async def _let_go(*_: object) -> None:
    """Nothing is kept that could be let go of."""


async def _refuse(*_: object) -> NoReturn:
    raise Denied(Code.FORBIDDEN, "the right to these files has ended")


class _Barred:
    def __getattr__(self, operation: str) -> Callable[..., Awaitable[None]]:
        return _let_go if operation in QUIET else _refuse


BARRED: Final = cast("FileSystem", _Barred())
