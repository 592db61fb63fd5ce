"""Messages to the metaserver about sessions: opened, renewed, closed, and the ids they make things with."""

from cloudverge_protocol.ids import EntryNumber, Epoch, Incarnation, Seq, SessionId, SpaceId
from cloudverge_protocol.messages.base import Message


class SessionOpen(Message, frozen=True):
    """Open (or take over) the session of this cache folder on ``space`` and become its active mount.

    ``cache_id`` is 16 random bytes kept in the cache folder. Another device's live lease gives SPACE_IN_USE
    (message names the device, retry_after_s says when its lease would run out); the same cache_id takes its
    own lease over at once, with a new incarnation.
    """

    space: SpaceId
    cache_id: bytes
    device_name: str
    mountpoint: str = ""


class SessionReply(Message, frozen=True):
    """The session's rights. ``lease_s`` counts from before the request was sent.

    ``high_water`` gives, for each incarnation of this session that is not closed yet, the highest entry number
    already applied. ``first_id``/``ids`` is a fresh range of inode and dentry ids.
    """

    session: SessionId
    incarnation: Incarnation
    lease_epoch: Epoch
    lease_s: float
    seq: Seq
    high_water: tuple[tuple[Incarnation, EntryNumber], ...]
    first_id: int
    ids: int
    replicas: int  # R of this space
    quota_bytes: int  # 0: none
    quota_inodes: int
    used_bytes: int
    used_inodes: int
    read_only: bool = False
    confined: bool = False  # to a sub-tree, shown as the root: READ takes range tickets
    promised_bytes: int = (
        0  # how far this session may go in a quota that others share; 0: as far as the quota
    )
    promised_inodes: int = 0


class SessionRef(Message, frozen=True):
    """Names the caller's session; RENEW, CLOSE. CLOSE also closes the incarnation and its chunks.

    A renewal claims room in what is shared: the level that the space's use shall be allowed to reach. Until it is
    answered, the session accepts nothing beyond the lower of its claim and what it was promised.
    """

    session: SessionId
    incarnation: Incarnation
    lease_epoch: Epoch
    claim_bytes: int = 0
    claim_inodes: int = 0


class SessionRenewed(Message, frozen=True):
    """A lease extended from before the request was sent, and the space's use for statfs."""

    lease_s: float
    seq: Seq
    quota_bytes: int
    quota_inodes: int
    used_bytes: int
    used_inodes: int
    free_bytes: int  # that the chunkservers could still take, divided by R
    promised_bytes: int = 0  # as in SessionReply
    promised_inodes: int = 0


class IncarnationClose(Message, frozen=True):
    """All entries of an ``old`` incarnation of this session have been shipped: release its pins."""

    session: SessionId
    incarnation: Incarnation
    lease_epoch: Epoch
    old: Incarnation


class Ids(Message, frozen=True):
    """Ask for ``count`` more ids."""

    session: SessionId
    incarnation: Incarnation
    lease_epoch: Epoch
    count: int


class IdsReply(Message, frozen=True):
    """The range [first, first + count)."""

    first: int
    count: int
