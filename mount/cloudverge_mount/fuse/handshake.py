"""INIT: what the kernel offers, what we want of it, and what is agreed on.

Only what both sides have is agreed on. Nothing is ever agreed on that the rest of this package cannot speak, or that
takes writes away from us: dirty pages in the kernel (WRITEBACK_CACHE) would be promises that we know nothing of.
A kernel of another major version is told ours, and asks again if it can; one that is too old is refused.
"""

import mmap
from dataclasses import dataclass
from typing import Final

from cloudverge_mount.fuse import replies
from cloudverge_mount.fuse.abi import (
    DEFAULT_PAGES_MAX,
    HEADER_ROOM,
    MAJOR,
    MINOR,
    MINOR_MIN,
    READ_BUFFER_MIN,
    Init,
)
from cloudverge_mount.fuse.bodies import Init as Offer

WANTED: Final = (
    Init.ASYNC_READ
    | Init.POSIX_LOCKS
    | Init.EXPORT_SUPPORT
    | Init.BIG_WRITES
    | Init.FLOCK_LOCKS
    | Init.DO_READDIRPLUS
    | Init.READDIRPLUS_AUTO
    | Init.ASYNC_DIO
    | Init.PARALLEL_DIROPS
    | Init.NO_OPENDIR_SUPPORT
    | Init.ABORT_ERROR
    | Init.MAX_PAGES
    | Init.CACHE_SYMLINKS
    | Init.EXPLICIT_INVAL_DATA
    | Init.HANDLE_KILLPRIV_V2
    | Init.SETXATTR_EXT
    | Init.HAS_EXPIRE_ONLY
)
NEVER: Final = (
    Init.WRITEBACK_CACHE
    | Init.AUTO_INVAL_DATA
    | Init.MAP_ALIGNMENT
    | Init.SECURITY_CTX
    | Init.CREATE_SUPP_GROUP
    | Init.OVER_IO_URING
)
WRITE_MIN: Final = 4096  # the kernel takes less for this
SHORT_MAX: Final = 0xFFFF  # of fields of 16 bits


class Unsupported(Exception):
    """The kernel's protocol is older than what we speak."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """What is agreed on. ``missing`` are names of what we wanted and the kernel lacks; sizes are bytes.

    ``again``: nothing is agreed on yet, the kernel sends another INIT after this reply.
    """

    minor: int
    flags: Init
    missing: tuple[str, ...]
    max_readahead: int
    max_write: int
    max_pages: int
    max_background: int
    congestion_threshold: int
    again: bool = False

    @property
    def setxattr_ext(self) -> bool:
        """Whether SETXATTR has its longer form."""
        return Init.SETXATTR_EXT in self.flags

    @property
    def buffer_bytes(self) -> int:
        """The size of a buffer that every request can be read into."""
        return max(READ_BUFFER_MIN, self.max_write + HEADER_ROOM)

    def reply(self, unique: int) -> bytes:
        """The reply to INIT."""
        return replies.init(
            unique,
            minor=self.minor,
            flags=self.flags.value,
            max_readahead=self.max_readahead,
            max_write=self.max_write,
            max_pages=self.max_pages,
            max_background=self.max_background,
            congestion_threshold=self.congestion_threshold,
            max_stack_depth=1 if Init.PASSTHROUGH in self.flags else 0,
        )


def negotiate(
    offer: Offer,
    wanted: Init = WANTED,
    *,
    max_write: int = 1 << 20,
    max_readahead: int | None = None,
    max_background: int = 64,
    congestion_threshold: int = 48,
    page_bytes: int = mmap.PAGESIZE,
) -> Handshake:
    """What to agree on with a kernel that offers this; ``max_readahead`` None: as much as it offers.

    Raises Unsupported, and ValueError if what is wanted must never be.
    """
    if wanted & NEVER:
        raise ValueError(f"not to be agreed on: {', '.join(_names(wanted & NEVER))}")
    if offer.major > MAJOR:
        return Handshake(MINOR, Init(0), (), 0, WRITE_MIN, 1, 0, 0, again=True)
    if (offer.major, offer.minor) < (MAJOR, MINOR_MIN):
        raise Unsupported(f"FUSE {offer.major}.{offer.minor} is older than {MAJOR}.{MINOR_MIN}")
    flags = _agreed(offer, wanted)
    if Init.MAX_PAGES not in flags:
        max_write = min(max_write, DEFAULT_PAGES_MAX * page_bytes)
    max_write = max(max_write, WRITE_MIN)
    return Handshake(
        minor=min(offer.minor, MINOR),
        flags=flags,
        missing=_names(wanted & ~flags),
        max_readahead=offer.max_readahead
        if max_readahead is None
        else min(max_readahead, offer.max_readahead),
        max_write=max_write,
        max_pages=min(-(-max_write // page_bytes), SHORT_MAX),
        max_background=min(max_background, SHORT_MAX),
        congestion_threshold=min(congestion_threshold, SHORT_MAX),
    )


def _agreed(offer: Offer, wanted: Init) -> Init:
    flags = Init(offer.flags) & (wanted | Init.INIT_EXT)
    if Init.INIT_EXT not in flags:
        flags &= Init(Init.INIT_EXT - 1)
    return flags


def _names(flags: Init) -> tuple[str, ...]:
    return tuple(flag.name for flag in Init if flag in flags and flag.name is not None)
