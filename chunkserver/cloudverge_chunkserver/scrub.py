"""Background verification of sealed chunks, slowly, for ever.

Rot is found while other copies are still good. The rate is a ceiling in bytes per second; a read that fails
its checksum is remembered and reported like any other.
"""

import asyncio
from array import array
from typing import Final

import structlog

from cloudverge_chunkserver.chunks import SealedChunk
from cloudverge_chunkserver.commits import Workers
from cloudverge_chunkserver.disk import Part
from cloudverge_chunkserver.replicas import Replicas
from cloudverge_protocol.errors import CloudVergeError
from cloudverge_protocol.ids import ChunkId

log = structlog.get_logger("cloudverge.chunkserver.scrub")

ROUND_AT_LEAST_S: Final = 600.0
LOST_DAYS: Final = 7


class Scrub:
    """One pass after another over the sealed chunks; ``checked_bytes`` counts what was read."""

    def __init__(self, replicas: Replicas, workers: Workers, bytes_per_s: int) -> None:
        self._replicas = replicas
        self._workers = workers
        self._bytes_per_s = bytes_per_s
        self.checked_bytes = 0

    async def run(self) -> None:
        """Scrub for ever."""
        while self._bytes_per_s:
            started = asyncio.get_running_loop().time()
            try:
                await self.round()
            except (CloudVergeError, OSError) as error:
                log.error("a scrub round ended early", why=str(error))
            elapsed = asyncio.get_running_loop().time() - started
            await asyncio.sleep(max(1.0, ROUND_AT_LEAST_S - elapsed))

    async def round(self) -> None:
        """Verify every chunk that is sealed now, and let go of what was set aside long ago."""
        disk = self._replicas.store.disk
        await self._workers.run(disk.forget_aside, LOST_DAYS * 86400.0)
        for chunk in await self._workers.run(self._sealed):
            await self._check(ChunkId(chunk))

    def _sealed(self) -> "array[int]":
        stored = self._replicas.store.disk.stored()
        return array("Q", (file.chunk for file in stored if file.part is Part.TABLE))

    async def _check(self, chunk: ChunkId) -> None:
        found = self._replicas.store.find(chunk)
        if isinstance(found, SealedChunk):
            await self._replicas.verify(chunk)
            self.checked_bytes += found.length
            await asyncio.sleep(found.length / self._bytes_per_s)
