"""The bytes of a committed file, in order, for those who have no mount: extents from the database, bytes from
chunkservers.

Every block is verified here against its CRC before a byte of it goes on (I5); a replica that fails or lies is passed
over for the next, and reported. One region of extents and a few pieces are in memory at a time, however large
the file. A file that is changed while it is read ends the reading: what would follow belongs to another version.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import structlog

from cloudverge_metaserver.chunkplaces import chunk_places
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.links import Links
from cloudverge_metaserver.packing import unpack_extents
from cloudverge_metaserver.rows import INODE, inode_of
from cloudverge_metaserver.tickets import TicketDesk
from cloudverge_protocol.checksum import Buffer, piece_crcs
from cloudverge_protocol.errors import ChunkFault, CloudVergeError, Code, Refused, Unavailable
from cloudverge_protocol.extents import plan_read
from cloudverge_protocol.ids import BLOCK_BYTES, REGION_BYTES, ChunkId, InodeId, ServerId, SpaceId
from cloudverge_protocol.inodes import Extent, Extents, Inode
from cloudverge_protocol.messages import Place, Read, ReadReply

_log = structlog.get_logger("cloudverge.metaserver")

PIECE_BYTES: Final = 1024 * 1024  # of one READ
AHEAD: Final = 2  # pieces that are fetched while one is being sent
READ_WITHIN_S: Final = 10.0
KNOWN_MAX: Final = 4096  # places and tickets of one reading
TICKET_KEPT_S: Final = 20.0
ZEROES: Final = memoryview(bytes(PIECE_BYTES))

_INODE: Final = f"select {INODE} from meta.inodes i where i.space = $1 and i.ino = $2"  # noqa: S608
_REGION: Final = "select packed, version from meta.extents where space = $1 and ino = $2 and region = $3"

Suspect = Callable[[ServerId, ChunkId], None]


class Piece(NamedTuple):
    """``length`` bytes of the file: of a chunk, or zeroes (``chunk`` 0)."""

    length: int
    chunk: ChunkId
    chunk_offset: int


def pieces_of(extents: Extents, start: int, end: int) -> list[Piece]:
    """What to read for [start, end) of a file: neighbours in a chunk together, none above PIECE_BYTES."""
    pieces: list[Piece] = []
    for _, length, extent in plan_read(extents, start, end - start):
        for piece in _split(length, extent):
            last = pieces[-1] if pieces else None
            if last is not None and _follows(last, piece):
                pieces[-1] = last._replace(length=last.length + piece.length)
            else:
                pieces.append(piece)
    return pieces


def _split(length: int, extent: Extent | None) -> list[Piece]:
    chunk, first = (extent.chunk, extent.chunk_offset) if extent is not None else (ChunkId(0), 0)
    return [
        Piece(min(PIECE_BYTES, length - at), chunk, first + at if chunk else 0)
        for at in range(0, length, PIECE_BYTES)
    ]


def _follows(last: Piece, piece: Piece) -> bool:
    return (
        last.chunk == piece.chunk != 0
        and last.chunk_offset + last.length == piece.chunk_offset
        and last.length + piece.length <= PIECE_BYTES
    )


def verified(reply: ReadReply, body: memoryview, offset: int, length: int) -> memoryview:
    """The bytes asked for out of a READ's answer; raises ChunkFault(BAD_CHECKSUM) unless all of it is true."""
    if (
        reply.start % BLOCK_BYTES
        or not reply.start <= offset <= offset + length <= reply.start + len(body)
        or piece_crcs(body, reply.start) != list(reply.crcs)
    ):
        raise ChunkFault(Code.BAD_CHECKSUM, "the bytes received do not match their checksums")
    return body[offset - reply.start : offset - reply.start + length]


@dataclass
class _Reading:
    """One file being read: what is known of the region that is being sent."""

    space: SpaceId
    inode: Inode
    places: dict[ChunkId, tuple[Place, ...]] = field(default_factory=dict)
    tickets: dict[tuple[ChunkId, ServerId], tuple[str, float]] = field(default_factory=dict)


class Contents:
    """See the module's text."""

    def __init__(self, database: Database, links: Links, desk: TicketDesk, suspect: Suspect) -> None:
        self._database, self._links, self._desk, self._suspect = database, links, desk, suspect

    async def find(self, space: SpaceId, ino: InodeId) -> Inode:
        """A regular file that still has a name; raises Refused(NOT_FOUND)."""
        async with self._database.connection() as connection:
            record = await connection.fetchrow(_INODE, space, ino)
        inode = inode_of(record) if record is not None else None
        if inode is None or not inode.is_file or not inode.nlink:
            raise Refused(Code.NOT_FOUND, "there is no such file")
        return inode

    async def read(self, space: SpaceId, inode: Inode, start: int, end: int) -> AsyncGenerator[Buffer, None]:
        """[start, end) of a file as ``find`` gave it; raises Refused(STALE) when it has changed since."""
        reading = _Reading(space, inode)
        fetching: deque[asyncio.Task[Buffer]] = deque()
        try:
            async for piece in self._plan(reading, start, end):
                fetching.append(asyncio.create_task(self._fetch(reading, piece)))
                if len(fetching) > AHEAD:
                    yield await fetching.popleft()
            while fetching:
                yield await fetching.popleft()
        finally:
            for task in fetching:
                task.cancel()
            await asyncio.gather(*fetching, return_exceptions=True)

    async def _plan(self, reading: _Reading, start: int, end: int) -> AsyncIterator[Piece]:
        at = start
        while at < end:
            until = min(end, (at // REGION_BYTES + 1) * REGION_BYTES)
            for piece in pieces_of(await self._region(reading, at // REGION_BYTES), at, until):
                yield piece
            at = until

    async def _region(self, reading: _Reading, region: int) -> Extents:
        space, inode = reading.space, reading.inode
        async with self._database.snapshot() as connection:
            record = await connection.fetchrow(_INODE, space, inode.ino)
            row = await connection.fetchrow(_REGION, space, inode.ino, region)
        now = inode_of(record) if record is not None else None
        if now is None or not now.nlink or _changed(inode, now, row["version"] if row else 0):
            raise Refused(Code.STALE, "the file was changed while it was read")
        extents = unpack_extents(row["packed"]) if row else ()
        if len(reading.places) > KNOWN_MAX:
            reading.places.clear()
        reading.places.update(await self._locate(space, {extent.chunk for extent in extents}))
        return extents

    async def _locate(self, space: SpaceId, chunks: set[ChunkId]) -> dict[ChunkId, tuple[Place, ...]]:
        if not chunks:
            return {}
        async with self._database.connection() as connection:
            found = await chunk_places(connection, space, chunks)
        return {chunk: located.places for chunk, located in found.items()}

    async def _fetch(self, reading: _Reading, piece: Piece) -> Buffer:
        if not piece.chunk:
            return ZEROES[: piece.length]
        try:
            return await self._fetch_from(reading, piece)
        except CloudVergeError:  # perhaps its replicas are elsewhere by now
            reading.places.update(await self._locate(reading.space, {piece.chunk}))
            return await self._fetch_from(reading, piece)

    async def _fetch_from(self, reading: _Reading, piece: Piece) -> memoryview:
        for place in reading.places.get(piece.chunk, ()):
            request = Read(
                self._ticket(reading, piece.chunk, place), piece.chunk, piece.chunk_offset, piece.length
            )
            try:
                reply, body = await self._links.read(place, request, READ_WITHIN_S)
                return verified(reply, body, piece.chunk_offset, piece.length)
            except CloudVergeError as error:
                _log.info("replica passed over", chunk=piece.chunk, place=place, reason=error.message)
                if error.code in (Code.BAD_CHECKSUM, Code.DAMAGED):
                    self._suspect(place.server, piece.chunk)
        raise Unavailable(Code.UNAVAILABLE, f"no good copy of chunk {piece.chunk} can be had now: try again")

    def _ticket(self, reading: _Reading, chunk: ChunkId, place: Place) -> str:
        """Our own right to read the chunk there; kept for a while, since chunkservers know it then."""
        now_s = time.time()
        known = reading.tickets.get((chunk, place.server))
        if known is None or not 0 <= now_s - known[1] < TICKET_KEPT_S:
            if len(reading.tickets) > KNOWN_MAX:
                reading.tickets.clear()
            known = (self._desk.read_one(reading.space, chunk, (place.server,), now_s), now_s)
            reading.tickets[chunk, place.server] = known
        return known[0]


def _changed(before: Inode, now: Inode, region_version: int) -> bool:
    """Whether the content is another one now; a change of rights or owner is none."""
    return now.version != before.version and (
        (now.size, now.mtime_ns) != (before.size, before.mtime_ns) or region_version > before.version
    )
