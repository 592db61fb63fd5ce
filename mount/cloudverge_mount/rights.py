"""What the names side needs to know of the session: who we are, what we may do, and how much room there is.

The session object of the process satisfies this; simulations bring their own.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from cloudverge_protocol.ids import EntryNumber, Epoch, Incarnation, Seq, SessionId, SpaceId


class Rights(Protocol):
    """The session as the names side sees it; attributes change when the session is opened again."""

    @property
    def cluster(self) -> str: ...
    @property
    def history(self) -> str: ...
    @property
    def space(self) -> SpaceId: ...
    @property
    def session(self) -> SessionId: ...
    @property
    def incarnation(self) -> Incarnation: ...
    @property
    def lease_epoch(self) -> Epoch: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def seq(self) -> Seq:
        """The seq of the space when the session was opened."""

    @property
    def seq_now(self) -> int:
        """The seq of the space as it was told last."""

    @property
    def high_water(self) -> Mapping[Incarnation, EntryNumber]:
        """Of each incarnation of this session not closed yet, as of the last opening."""

    @property
    def quota_bytes(self) -> int: ...
    @property
    def quota_inodes(self) -> int: ...
    @property
    def promised_bytes(self) -> int:
        """How far we may go before we ask for more; 0: as far as the quota."""

    @property
    def promised_inodes(self) -> int: ...
    @property
    def used_bytes(self) -> int: ...
    @property
    def used_inodes(self) -> int: ...
    @property
    def free_bytes(self) -> int: ...

    def take_id(self) -> int:
        """One id of the local range; raises Unavailable when it is empty."""

    async def ensure_ids(self, count: int) -> None:
        """Wait until that many ids can be taken; raises Unavailable."""

    async def ask_promise(self) -> None:
        """Ask how far we may go now; raises CloudVergeError."""

    def on_claim(self, claims: Callable[[bool], tuple[int, int]]) -> None:
        """Ask this before each renewal how far we want to go, in bytes and inodes; True: farther than we may now."""

    def note_use(self, used_bytes: int, used_inodes: int, seq: int) -> None:
        """A batch reply has told what the space uses as of ``seq``."""

    def on_reopened(self, callback: Callable[[], None]) -> None:
        """Call this whenever the session has been opened again: there is a new incarnation."""

    def on_seq(self, callback: Callable[[int], None]) -> None:
        """Call this with the space's seq whenever it is told."""
