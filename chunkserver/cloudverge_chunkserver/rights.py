"""What a ticket allows here: each request is checked for this very chunk, space, epoch and server (I6).

Two answers only for a caller without the right, so that ids tell nothing: UNAUTHORIZED (no ticket that is good
on this server) and FORBIDDEN (a good one, for something else); neither depends on whether the chunk exists.
A read with a ticket of another space or chunk gets the same NO_CHUNK as a chunk that is absent.
"""

from collections.abc import Callable
from typing import Final

from cloudverge_auth.keys import KeyRing
from cloudverge_auth.tokens import (
    INVALID_MESSAGE,
    ChunkTicket,
    Identity,
    ServerTicket,
    VerifiedTokens,
    verify_chunk,
    verify_identity,
    verify_server,
)
from cloudverge_chunkserver.appending import no_chunk
from cloudverge_chunkserver.sidecar import Header
from cloudverge_protocol.errors import Code, Denied
from cloudverge_protocol.ids import CHUNK_BYTES, ChunkId, ServerId, SpaceId
from cloudverge_protocol.messages import Append

_TICKETS: Final = 8192


class Rights:
    """The keys and the name of this server, and the tickets that have been verified with them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._cluster = ""
        self._server = ServerId(0)
        self._auth = self._meta = KeyRing({})
        self._tickets = VerifiedTokens(
            lambda token, now_s: verify_chunk(self._meta, token, self._cluster, now_s), _TICKETS
        )

    def trust(self, cluster: str, server: ServerId, auth: KeyRing, meta: KeyRing) -> None:
        """Use these keys from now on."""
        if (cluster, server, meta.to_public()) != (self._cluster, self._server, self._meta.to_public()):
            self._tickets.clear()
        self._cluster, self._server, self._auth, self._meta = cluster, server, auth, meta

    def caller(self, token: str) -> Identity | ServerTicket:
        """Who says HELLO: a mount with an identity ticket, or a server."""
        try:
            return verify_identity(self._auth, token, self._cluster, self._clock())
        except Denied:
            return verify_server(self._meta, token, self._cluster, self._clock())

    def _ticket(self, token: str, right: str) -> ChunkTicket:
        ticket = self._tickets.verify(token, self._clock())
        if ticket.servers and self._server not in ticket.servers:
            raise Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)
        if ticket.right != right:
            raise Denied(Code.FORBIDDEN, f"this is a ticket to {ticket.right}, not to {right}")
        return ticket

    def append(self, message: Append) -> Header:
        """The right under which ``message`` appends."""
        ticket = self._ticket(message.ticket, "append")
        if ticket.chunk != message.chunk or not ticket.chunk:
            raise Denied(Code.FORBIDDEN, "this ticket is for another chunk")
        if ticket.epoch != message.epoch:
            raise Denied(Code.FENCED, f"the ticket is of epoch {ticket.epoch}, the append of {message.epoch}")
        return Header(ticket.chunk, ticket.space, ticket.epoch, min(ticket.limit, CHUNK_BYTES))

    def read(self, token: str, chunk: ChunkId) -> SpaceId:
        """The space in which ``chunk`` may be read."""
        ticket = self._ticket(token, "read")
        if ticket.chunk not in (0, chunk):
            raise no_chunk()
        return ticket.space

    def control(self, token: str, *chunks: ChunkId) -> None:
        """Only the metaserver is given such tickets."""
        ticket = self._ticket(token, "control")
        if ticket.chunk and any(chunk != ticket.chunk for chunk in chunks):
            raise Denied(Code.FORBIDDEN, "this ticket is for another chunk")
