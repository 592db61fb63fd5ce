"""Range tickets: rights to the very bytes that files below a sub-tree's root refer to.

Small files of different folders share blocks of a chunk, so a session that is confined to a sub-tree is given no
chunk and no block: for the spans of files that it names, if they lie inside as the namespace is now, it gets
tickets that list (offset, length) in one chunk each. The chunkserver sends these bytes and no others.

Bounded: so many spans a request, so many ranges a ticket (a token has 4 KiB); what does not fit is left out at
the end, and asked for again by who needs it.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from cloudverge_auth.tokens import Identity
from cloudverge_metaserver.chunkplaces import chunk_places
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.packing import unpack_extents
from cloudverge_metaserver.rows import Connection
from cloudverge_metaserver.scope import Scope
from cloudverge_metaserver.subtree import readable
from cloudverge_metaserver.tickets import TicketDesk
from cloudverge_protocol.errors import Code, ProtocolFault
from cloudverge_protocol.extents import clip
from cloudverge_protocol.ids import FILE_BYTES_MAX, ChunkId, InodeId, SpaceId, region_of
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.messages import Place, RangeTicket, Span

SPANS_MAX: Final = 256
RANGES_MAX: Final = 4_096  # of one request
RANGES_PER_TICKET: Final = 64
REGIONS_MAX: Final = 64  # that the spans of one request may meet

_REGIONS: Final = """
    select k.n, e.packed from unnest($2::bigint[], $3::bigint[]) with ordinality k(ino, region, n)
    cross join lateral (
        select packed from meta.extents where space = $1 and ino = k.ino and region = k.region offset 0
    ) e order by k.n
"""

Range = tuple[int, int]


class RangeTickets:
    """Signs them."""

    def __init__(self, database: Database, desk: TicketDesk) -> None:
        self._database, self._desk = database, desk

    async def tickets(
        self, identity: Identity, spans: Sequence[Span], now_s: float
    ) -> tuple[RangeTicket, ...]:
        """For each run of bytes in the spans, in order, a ticket that covers it; runs may share one."""
        if len(spans) > SPANS_MAX:
            raise ProtocolFault(Code.BAD_REQUEST, f"more than {SPANS_MAX} spans at once")
        scope = Scope(identity.root)
        wanted = [Span(scope.inward(span.ino), span.offset, span.length) for span in spans if _is_sane(span)]
        async with self._database.snapshot() as connection:
            found = await readable(connection, identity, (span.ino for span in wanted))
            extents = await _extents(
                connection, identity.space, [span for span in wanted if span.ino in found]
            )
            chunks = list(dict.fromkeys(extent.chunk for extent in extents))
            located = await chunk_places(connection, identity.space, chunks)
        runs = runs_of(extents)
        return tuple(
            RangeTicket(chunk, *run, ticket, located[chunk].places)
            for chunk in chunks
            if chunk in located
            for run, ticket in self._signed(identity, chunk, located[chunk].places, runs[chunk], now_s)
        )

    def _signed(
        self, identity: Identity, chunk: ChunkId, places: Sequence[Place], runs: Sequence[Range], now_s: float
    ) -> Iterable[tuple[Range, str]]:
        servers = [place.server for place in places]
        for first in range(0, len(runs), RANGES_PER_TICKET):
            part = tuple(runs[first : first + RANGES_PER_TICKET])
            ticket = self._desk.ranges(identity, chunk, servers, part, now_s)
            yield from ((run, ticket) for run in part)


def _is_sane(span: Span) -> bool:
    return 0 <= span.offset <= FILE_BYTES_MAX and 0 < span.length <= FILE_BYTES_MAX - span.offset


async def _extents(connection: Connection, space: SpaceId, spans: Sequence[Span]) -> list[Extent]:
    """The extents that the spans meet, cut to them, at most RANGES_MAX."""
    keys: dict[tuple[InodeId, int], list[Span]] = {}
    for span in spans:
        last = region_of(span.offset + span.length - 1)
        for region in range(region_of(span.offset), min(last, region_of(span.offset) + REGIONS_MAX) + 1):
            if len(keys) < REGIONS_MAX or (span.ino, region) in keys:
                keys.setdefault((span.ino, region), []).append(span)
    found: list[Extent] = []
    wanted = list(keys)
    inos, regions = [ino for ino, _ in wanted], [region for _, region in wanted]
    for number, packed in await connection.fetch(_REGIONS, space, inos, regions) if wanted else ():
        extents = unpack_extents(packed)
        for span in keys[wanted[number - 1]]:
            found += clip(extents, span.offset, span.offset + span.length)
    return found[:RANGES_MAX]


def runs_of(extents: Iterable[Extent]) -> dict[ChunkId, list[Range]]:
    """The bytes of each chunk that the extents refer to, as (offset, length), in order, none of them touching."""
    ends: dict[ChunkId, list[list[int]]] = {}
    for extent in sorted(extents, key=lambda each: (each.chunk, each.chunk_offset)):
        runs = ends.setdefault(extent.chunk, [])
        start, end = extent.chunk_offset, extent.chunk_offset + extent.length
        if runs and start <= runs[-1][1]:
            runs[-1][1] = max(runs[-1][1], end)
        else:
            runs.append([start, end])
    return {chunk: [(start, end - start) for start, end in runs] for chunk, runs in ends.items()}
