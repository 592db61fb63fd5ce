"""What is durable: receipts counted against the replicas of a chunk. Pure.

The durable length D of an OPEN chunk is what every replica of its set has receipted; of a SEALED one it is
the seal. A receipt counts if its MAC is genuine, its server holds a replica, and its epoch is the chunk's; any
other is passed over without a word, because an honest mount may carry one from before a seal, and a forger
learns nothing (the log has a line about him).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from cloudverge_protocol.ids import CHUNK_BYTES, ChunkId, Epoch, Incarnation, ServerId, SessionId
from cloudverge_protocol.messages import Receipt
from cloudverge_protocol.receipts import receipt_is_genuine


class ChunkState(IntEnum):
    """As in meta.chunks.state."""

    OPEN = 1
    SEALED = 2
    DAMAGED = 3
    DELETED = 4


class ReplicaState(IntEnum):
    """As in meta.replicas.state."""

    OPEN = 1
    GOOD = 2
    UNTOLD = 3
    BAD = 4
    STALE = 5
    DOOMED = 6


@dataclass(slots=True)
class ChunkFacts:
    """What a transaction needs to know of one chunk of its space."""

    chunk: ChunkId
    state: ChunkState
    epoch: Epoch
    session: SessionId
    incarnation: Incarnation
    limit: int
    durable: int
    committed_end: int
    sealed: int | None
    pinned_by: Incarnation | None
    receipted: dict[ServerId, int] = field(default_factory=dict)  # of the replicas of the set
    keys: Mapping[ServerId, bytes] = field(default_factory=dict)  # receipt keys of their servers


def count_receipts(
    chunks: Mapping[ChunkId, ChunkFacts], receipts: Iterable[Receipt], forged: list[Receipt] | None = None
) -> list[Receipt]:
    """Raise what is receipted and durable in ``chunks``; returns the receipts that told something new.

    Those that would, if they were genuine, are added to ``forged``.
    """
    counted: dict[tuple[ChunkId, ServerId], Receipt] = {}
    for receipt in receipts:
        facts = chunks.get(receipt.chunk)
        if facts is None or not _would_tell_more(facts, receipt):
            continue
        if receipt_is_genuine(facts.keys[receipt.server], receipt):
            facts.receipted[receipt.server] = receipt.length
            counted[receipt.chunk, receipt.server] = receipt
        elif forged is not None:
            forged.append(receipt)
    for chunk, _ in counted:
        facts = chunks[chunk]
        facts.durable = max(facts.durable, min(facts.receipted.values()))
    return list(counted.values())


def _would_tell_more(facts: ChunkFacts, receipt: Receipt) -> bool:
    known = facts.receipted.get(receipt.server)
    return (
        facts.state == ChunkState.OPEN
        and known is not None
        and known < receipt.length <= min(facts.limit, CHUNK_BYTES)
        and receipt.epoch == facts.epoch
    )
