"""Extended attributes; two of them are access control lists, where the kernel heeds those (see ``aclkeeping``)."""

from collections.abc import Mapping, Sequence

from cloudverge_mount.acl import ACCESS, DEFAULT
from cloudverge_mount.aclkeeping import AclKeeping
from cloudverge_mount.core import Core
from cloudverge_mount.replica import HAS_XATTRS, XATTRS
from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import InodeId
from cloudverge_protocol.operations import Removexattr, Setxattr


class Xattrs(AclKeeping):
    """The part of ``Vfs`` that deals in extended attributes."""

    core: Core

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        """A value; NO_ATTR if there is none."""
        node = self.core.rows.node(ino)
        if node is not None and node.known & (XATTRS | HAS_XATTRS) == XATTRS:
            raise Refused(Code.NO_ATTR, "no such attribute")
        values = await self.core.retry(self._values, ino)
        if name not in values:
            raise Refused(Code.NO_ATTR, "no such attribute")
        return values[name]

    async def listxattr(self, ino: int) -> Sequence[bytes]:
        """All names."""
        return list(await self.core.retry(self._values, ino))

    def _values(self, ino: int) -> Mapping[bytes, bytes]:
        self.core.row(ino)
        return self.core.ledger.local.xattrs(InodeId(ino))

    def _is_list(self, name: bytes) -> bool:
        return self.acl and name in (ACCESS, DEFAULT)

    async def setxattr(
        self, ino: int, name: bytes, value: bytes, flags: int, kill_sgid: bool = False
    ) -> None:
        """Set a value; ``kill_sgid``: an access list that sets the mode clears setgid in it."""
        await self.core.retry(self._setxattr, ino, name, value, flags, kill_sgid)

    def _setxattr(self, ino: int, name: bytes, value: bytes, flags: int, kill_sgid: bool) -> None:
        core = self.core
        core.check_writable()
        core.row(ino)
        if self._is_list(name):
            return self.set_list(ino, name, value, flags, kill_sgid)
        core.ledger.accept(Setxattr(InodeId(ino), name, value, flags, core.clock_ns()))

    async def removexattr(self, ino: int, name: bytes) -> None:
        """Remove a value."""
        await self.core.retry(self._removexattr, ino, name)

    def _removexattr(self, ino: int, name: bytes) -> None:
        core = self.core
        core.check_writable()
        core.row(ino)
        if self._is_list(name):
            return self.remove_list(ino, name)
        core.ledger.accept(Removexattr(InodeId(ino), name, core.clock_ns()))
