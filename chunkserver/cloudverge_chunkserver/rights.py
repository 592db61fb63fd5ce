"""What a ticket allows here: each request is checked for this very chunk, space, epoch and server (I6).

Two answers only for a caller without the right, so that ids tell nothing: UNAUTHORIZED (no ticket that is good
on this server, or one signed before a right to its space was taken away) and FORBIDDEN (a good one, for something
else); neither depends on whether the chunk exists. A read with a ticket of another space or chunk, or outside its
ranges, gets the same NO_CHUNK as a chunk that is absent.

Tickets shown here must be of no use elsewhere: who says HELLO shows a chunk ticket that names this server, never an
identity. Which epochs are over is told by the metaserver (EPOCHS); what it told is forgotten once every ticket
of before has run out.
"""

from collections.abc import Callable, Iterable
from typing import Final

from cloudverge_auth.keys import KeyRing
from cloudverge_auth.tokens import (
    CHUNK_LIFE_S,
    INVALID_MESSAGE,
    LEEWAY_S,
    ChunkTicket,
    ServerTicket,
    VerifiedTokens,
    verify_chunk,
    verify_server,
)
from cloudverge_chunkserver.appending import no_chunk
from cloudverge_chunkserver.sidecar import Header
from cloudverge_protocol.errors import Code, Denied
from cloudverge_protocol.ids import CHUNK_BYTES, ChunkId, Epoch, ServerId, SpaceId, UserId
from cloudverge_protocol.messages import Append, Read

_TICKETS: Final = 8192
_FLOOR_LASTS_S: Final = CHUNK_LIFE_S + 2 * LEEWAY_S
_ENTRY_RIGHTS: Final = ("enter", "read", "append")


class Rights:
    """The keys and the name of this server, and the tickets that have been verified with them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._cluster = ""
        self._server = ServerId(0)
        self._meta = KeyRing({})
        self._floors: dict[
            SpaceId, tuple[Epoch, float]
        ] = {}  # lowest epoch that counts, and until when that matters
        self._tickets = VerifiedTokens(
            lambda token, now_s: verify_chunk(self._meta, token, self._cluster, now_s), _TICKETS
        )

    def trust(self, cluster: str, server: ServerId, meta: KeyRing) -> None:
        """Use these keys from now on."""
        if (cluster, server, meta.to_public()) != (self._cluster, self._server, self._meta.to_public()):
            self._tickets.clear()
        self._cluster, self._server, self._meta = cluster, server, meta

    def raise_floors(self, spaces: Iterable[tuple[SpaceId, Epoch]]) -> None:
        """Refuse tickets of these spaces that were signed under a lower membership epoch."""
        now_s = self._clock()
        self._floors = {space: floor for space, floor in self._floors.items() if floor[1] > now_s}
        for space, epoch in spaces:
            known = self._floors.get(space)
            if known is None or known[0] < epoch:
                self._floors[space] = epoch, now_s + _FLOOR_LASTS_S

    def caller(self, token: str) -> ChunkTicket | ServerTicket:
        """Who says HELLO: a mount with a chunk ticket for this server, or a server."""
        try:
            ticket = self._believed(token)
        except Denied:
            return verify_server(self._meta, token, self._cluster, self._clock())
        if not ticket.servers or ticket.right not in _ENTRY_RIGHTS:
            raise Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)
        return ticket

    def _believed(self, token: str) -> ChunkTicket:
        """The claims of a chunk ticket that is good on this server now."""
        ticket = self._tickets.verify(token, self._clock())
        floor = self._floors.get(ticket.space)
        is_over = floor is not None and ticket.membership_epoch < floor[0]
        if is_over or (ticket.servers and self._server not in ticket.servers):
            raise Denied(Code.UNAUTHORIZED, INVALID_MESSAGE)
        return ticket

    def _ticket(self, token: str, right: str) -> ChunkTicket:
        ticket = self._believed(token)
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
        if ticket.places and any((p.server, p.host, p.port) not in ticket.places for p in message.onward):
            raise Denied(Code.FORBIDDEN, "the append is to go on to a server that is not the chunk's")
        return Header(ticket.chunk, ticket.space, ticket.epoch, min(ticket.limit, CHUNK_BYTES))

    def read(self, message: Read) -> ChunkTicket:
        """The right under which ``message`` reads."""
        ticket = self._ticket(message.ticket, "read")
        if ticket.chunk not in (0, message.chunk) or not _is_within(message, ticket):
            refusal = no_chunk()
            refusal.suspicious = True
            raise refusal
        return ticket

    def control(self, token: str, *chunks: ChunkId) -> None:
        """Only the metaserver is given such tickets."""
        ticket = self._ticket(token, "control")
        if ticket.chunk and any(chunk != ticket.chunk for chunk in chunks):
            raise Denied(Code.FORBIDDEN, "this ticket is for another chunk")


def user_of(caller: object) -> UserId | None:
    """Whose connection it is; None: a server's."""
    return (caller.user or None) if isinstance(caller, ChunkTicket) else None


def _is_within(message: Read, ticket: ChunkTicket) -> bool:
    """Whether a read stays inside one of the ticket's ranges; a ticket without any is for the whole chunk."""
    if not ticket.ranges:
        return True
    end = message.offset + message.length
    return any(
        start <= message.offset and message.length >= 0 and end <= start + length
        for start, length in ticket.ranges
    )
