"""Blocks known to be bad, remembered until the chunk is repaired or deleted.

Nothing is believed because of this list: each read verifies for itself. It is what heartbeats report, and why
REPLICA_STAT says DAMAGED. Kept in a small file, so that a restart does not forget; losing it loses nothing that
a scrub would not find again.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from cloudverge_protocol.ids import ChunkId

_CHUNKS_MAX: Final = 65536
_BLOCKS_MAX: Final = 1024


class DamageList:
    """Chunk -> its bad blocks; ``path`` None keeps it in memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._bad: dict[ChunkId, set[int]] = {}
        self._saved = True
        if path is not None:
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            found = msgspec.json.decode(path.read_bytes(), type=dict[int, list[int]])
        except (FileNotFoundError, msgspec.DecodeError):
            return
        self._bad = {ChunkId(chunk): set(blocks) for chunk, blocks in found.items()}

    def __contains__(self, chunk: ChunkId) -> bool:
        return chunk in self._bad

    def __len__(self) -> int:
        return len(self._bad)

    def chunks(self) -> list[ChunkId]:
        """All chunks with a bad block."""
        return list(self._bad)

    def blocks(self, chunk: ChunkId) -> list[int]:
        """The bad blocks of ``chunk``, in order."""
        return sorted(self._bad.get(chunk, ()))

    def add(self, chunk: ChunkId, blocks: list[int]) -> bool:
        """Remember these; True if one was not known before."""
        known = self._bad.get(chunk)
        if known is None:
            if len(self._bad) >= _CHUNKS_MAX:
                return False
            known = self._bad[chunk] = set()
        new = set(blocks[:_BLOCKS_MAX]) - known
        known |= new
        self._saved = self._saved and not new
        return bool(new)

    def forget(self, chunk: ChunkId) -> None:
        """The chunk is repaired or gone."""
        if self._bad.pop(chunk, None) is not None:
            self._saved = False

    def save(self) -> None:
        """Write the list down if it has changed; failing to is no error."""
        if self._saved or self._path is None:
            return
        aside = self._path.with_suffix(".tmp")
        try:
            aside.write_bytes(msgspec.json.encode({chunk: sorted(bad) for chunk, bad in self._bad.items()}))
            os.replace(aside, self._path)
        except OSError:
            return
        self._saved = True
