"""The metaserver's frame requests as typed calls; no logic of its own.

Which calls may be repeated after a lost connection is said here: all but CHUNK_ALLOCATE and IDS, which
would leak what the lost answer granted (harmless, but wasteful), are idempotent by the protocol's rules.
"""

from typing import TypeVar

from cloudverge_mount.link import Link
from cloudverge_protocol import messages as m
from cloudverge_protocol.messages import FrameType, Message

T = TypeVar("T", bound=Message)


class MetaClient:
    """Typed calls over a link to the space's home metaserver. All raise CloudVergeError."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def _ask(
        self,
        kind: FrameType,
        request: Message,
        reply: type[T],
        *,
        timeout_s: float = 20.0,
        again: bool = True,
    ) -> T:
        answer, _ = await self.link.call(kind, request, timeout_s=timeout_s, idempotent=again)
        assert isinstance(answer, reply)
        return answer

    async def open_session(self, request: m.SessionOpen) -> m.SessionReply:
        """Become the active mount of a space."""
        return await self._ask(FrameType.SESSION_OPEN, request, m.SessionReply)

    async def renew(self, request: m.SessionRef) -> m.SessionRenewed:
        """Extend the lease."""
        return await self._ask(FrameType.SESSION_RENEW, request, m.SessionRenewed, timeout_s=5.0)

    async def close_session(self, request: m.SessionRef) -> m.Empty:
        """Give the lease back."""
        return await self._ask(FrameType.SESSION_CLOSE, request, m.Empty)

    async def close_incarnation(self, request: m.IncarnationClose) -> m.Empty:
        """Say that an old incarnation's journal has been shipped."""
        return await self._ask(FrameType.INCARNATION_CLOSE, request, m.Empty)

    async def ids(self, request: m.Ids) -> m.IdsReply:
        """Get a range of inode and dentry ids."""
        return await self._ask(FrameType.IDS, request, m.IdsReply, again=False)

    async def batch(self, request: m.Batch) -> m.BatchReply:
        """Commit journal entries."""
        return await self._ask(FrameType.BATCH, request, m.BatchReply)

    async def tree(self, request: m.Tree) -> m.TreeReply:
        """List a folder and what lies below it."""
        return await self._ask(FrameType.TREE, request, m.TreeReply)

    async def load(self, request: m.Load) -> m.LoadReply:
        """Read single rows."""
        return await self._ask(FrameType.LOAD, request, m.LoadReply)

    async def feed(self, request: m.Feed) -> m.FeedReply:
        """Read the oplog."""
        return await self._ask(FrameType.FEED, request, m.FeedReply)

    async def allocate(self, request: m.ChunkAllocate) -> m.ChunkGrants:
        """Get chunks to append to."""
        return await self._ask(FrameType.CHUNK_ALLOCATE, request, m.ChunkGrants, again=False)

    async def seal(self, request: m.ChunkSeal) -> m.ChunkSealed:
        """End the appending to a chunk."""
        return await self._ask(FrameType.CHUNK_SEAL, request, m.ChunkSealed)

    async def locate(self, request: m.ChunkLocate) -> m.ChunkLocateReply:
        """Find the replicas of chunks."""
        return await self._ask(FrameType.CHUNK_LOCATE, request, m.ChunkLocateReply)

    async def tickets(self, request: m.Tickets) -> m.TicketsReply:
        """Get fresh chunk tickets."""
        return await self._ask(FrameType.TICKETS, request, m.TicketsReply)

    async def damage(self, request: m.Damage) -> m.Empty:
        """Report a replica that gave bad bytes."""
        return await self._ask(FrameType.DAMAGE, request, m.Empty)
