"""Room for what is new: checked before an operation is accepted, so that a full quota is told at once.

The metaserver says what the space uses as of its last commit; what we have accepted since is added here.
Overwrites and removals are never refused.

Where a quota is shared with other spaces, the metaserver promises a part of it at a time, and nothing beyond the
promise is accepted: it could be another's by the time it is committed. The promise is a level that our use may reach.
It is given anew with each renewal, which therefore *claims*: so far, and no farther, we may go until the answer comes.
``Spent`` means: ask for more. It is also raised at the quota itself while something is not committed yet, for that may
be a removal.
"""

from collections.abc import Callable
from typing import Final

from cloudverge_mount.filesystem import Statfs
from cloudverge_mount.rights import Rights
from cloudverge_protocol.errors import Code, NoRoom

BLOCK_BYTES = 4096
NO_LIMIT_INODES = 1 << 32
SPARE_BYTES: Final = 16 << 20  # claimed beyond what we use when we want nothing: what comes before the answer
SPARE_INODES: Final = 1000
AHEAD_BYTES: Final = 256 << 20  # claimed by who wants more
AHEAD_INODES: Final = 4096


class Spent(Exception):
    """No room as far as we know, but asking may help. Never leaves the names side."""


class Quota:
    """Arithmetic over the session's figures and our own growth that is not committed."""

    def __init__(self, rights: Rights) -> None:
        self._rights = rights
        self.is_settled: Callable[[], bool] = lambda: True  # whether all we have accepted is committed
        self.entered_bytes = 0  # by entries that are not committed
        self.entered_inodes = 0
        self.dirty_bytes = 0  # files have grown by, in bytes that have not entered
        rights.on_claim(self.claims)

    @property
    def used_bytes(self) -> int:
        """Bytes used, ours included."""
        return max(0, self._rights.used_bytes + self.entered_bytes + self.dirty_bytes)

    @property
    def used_inodes(self) -> int:
        """Inodes used, ours included."""
        return max(0, self._rights.used_inodes + self.entered_inodes)

    def claims(self, wants: bool) -> tuple[int, int]:
        """The levels of bytes and inodes to claim: a little beyond what we use, or what we could use soon."""
        rights, used = self._rights, (self.used_bytes, self.used_inodes)
        if wants:
            return used[0] + AHEAD_BYTES, used[1] + AHEAD_INODES
        return (
            used[0] + _spare(rights.promised_bytes - used[0], SPARE_BYTES),
            used[1] + _spare(rights.promised_inodes - used[1], SPARE_INODES),
        )

    def check_inode(self) -> None:
        """Refuse one more inode if there is no room."""
        rights = self._rights
        self._check(self.used_inodes + 1, rights.quota_inodes, rights.promised_inodes, "files")

    def check_bytes(self, more: int) -> None:
        """Refuse so many more bytes if there is no room."""
        rights = self._rights
        self._check(self.used_bytes + more, rights.quota_bytes, rights.promised_bytes, "bytes")

    def _check(self, level: int, limit: int, promised: int, kind: str) -> None:
        if limit and level > limit:
            if not self.is_settled():
                raise Spent
            raise NoRoom(Code.QUOTA, f"the quota of {limit} {kind} is used up")
        if promised and level > promised:
            raise Spent

    def statfs(self) -> Statfs:
        """What df shows."""
        rights, used = self._rights, self.used_bytes
        free = max(0, rights.free_bytes - max(0, self.entered_bytes + self.dirty_bytes))
        if rights.quota_bytes:
            free = min(free, max(0, rights.quota_bytes - used))
        blocks_free = free // BLOCK_BYTES
        inodes = rights.quota_inodes or NO_LIMIT_INODES
        blocks = blocks_free + -(-used // BLOCK_BYTES)
        return Statfs(BLOCK_BYTES, blocks, blocks_free, inodes, max(0, inodes - self.used_inodes))


def _spare(left: int, most: int) -> int:
    """A part of what is left to us: with each renewal that finds us idle we keep less of it."""
    return min(most, max(0, left) // 4)
