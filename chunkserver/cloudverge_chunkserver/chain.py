"""The chain of an append: on to the next server before the own disk is written, back as one merged answer.

A server that fails further down never makes the append fail here: the answer says who failed and why, and has
the receipts of those before it. What to do about it is the writer's affair (it has the chunk sealed).
"""

import asyncio
from typing import Final

from cloudverge_chunkserver.links import Links
from cloudverge_protocol.checksum import Buffer
from cloudverge_protocol.errors import CloudVergeError, Code, ProtocolFault
from cloudverge_protocol.messages import Append, AppendReply, FrameType, Place
from cloudverge_wire.frameclient import Reply

CHAIN_MAX: Final = 8


class Forward:
    """An append on its way to the next server."""

    __slots__ = ("_answer", "_next")

    def __init__(self, following: Place, answer: "asyncio.Future[Reply]") -> None:
        self._next = following
        self._answer = answer

    async def merged_into(self, own: AppendReply) -> AppendReply:
        """Our answer, together with what the rest of the chain says."""
        try:
            reply, _ = await self._answer
        except CloudVergeError as error:
            return AppendReply(own.length, own.receipts, self._next.server, error.code, error.message)
        assert isinstance(reply, AppendReply)
        return merge(own, reply)

    def abandon(self) -> None:
        """Nobody will ask how it went."""
        self._answer.add_done_callback(lambda done: done.cancelled() or done.exception())


def merge(own: AppendReply, rest: AppendReply) -> AppendReply:
    """What this server and those after it have together."""
    return AppendReply(
        min(own.length, rest.length), own.receipts + rest.receipts, rest.failed, rest.code, rest.message
    )


def forward(links: Links, append: Append, body: Buffer) -> Forward | None:
    """Send ``append`` to the next server, if there is one; never waits."""
    if not append.onward:
        return None
    if len(append.onward) > CHAIN_MAX:
        raise ProtocolFault(Code.BAD_REQUEST, f"a chain of {len(append.onward)} servers")
    following, *others = append.onward
    links.check_host(following)
    message = Append(
        append.ticket, append.chunk, append.epoch, append.offset, append.crcs, append.sync, tuple(others)
    )
    answer = links.to(following).begin(FrameType.APPEND, message, (body,) if len(body) else ())
    return Forward(following, answer)
