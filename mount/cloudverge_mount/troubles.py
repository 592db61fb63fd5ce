"""Trouble with bytes that people should hear of: copies that failed us, and notes of the last minutes.

A bad copy is told to the metaserver too, which has it repaired.
"""

import time
from collections import deque
from dataclasses import dataclass

import structlog
import trio

from cloudverge_mount.metaclient import MetaClient
from cloudverge_mount.ticketbook import Rights
from cloudverge_protocol.errors import CloudVergeError
from cloudverge_protocol.ids import ChunkId, ServerId
from cloudverge_protocol.messages import Damage

log = structlog.get_logger(__name__)

DAMAGE_NOTES = 64
SAME_DAMAGE_S = 60.0
NOTE_S = 600.0


@dataclass(frozen=True)
class DamageSeen:
    """A replica that failed us, for ``cv status``."""

    at_s: float
    chunk: ChunkId
    server: ServerId
    reason: str


class Troubles:
    """What is remembered is bounded, and what comes again is not told again."""

    def __init__(self, meta: MetaClient, rights: Rights) -> None:
        self._meta = meta
        self._rights = rights
        self.damage: deque[DamageSeen] = deque(maxlen=DAMAGE_NOTES)
        self._notes: dict[str, float] = {}  # text -> when last seen

    @property
    def notes(self) -> list[str]:
        """What was noted in the last minutes."""
        now = time.time()
        self._notes = {text: at for text, at in self._notes.items() if now < at + NOTE_S}
        return list(self._notes)

    def note(self, text: str) -> None:
        """Worth a person's look."""
        self._notes.pop(text, None)
        self._notes[text] = time.time()
        if len(self._notes) > DAMAGE_NOTES:
            del self._notes[next(iter(self._notes))]

    def saw_damage(self, nursery: trio.Nursery, chunk: ChunkId, server: ServerId, reason: str) -> None:
        """A copy gave no good bytes; it is reported in ``nursery``."""
        now = time.time()
        if any(
            (seen.chunk, seen.server) == (chunk, server) and now < seen.at_s + SAME_DAMAGE_S
            for seen in self.damage
        ):
            return
        self.damage.append(DamageSeen(now, chunk, server, reason))
        nursery.start_soon(self._report, chunk, server)

    async def _report(self, chunk: ChunkId, server: ServerId) -> None:
        try:
            await self._meta.damage(Damage(self._rights.space, chunk, server))
        except CloudVergeError as error:
            log.info("damage could not be reported", chunk=chunk, server=server, error=str(error))
