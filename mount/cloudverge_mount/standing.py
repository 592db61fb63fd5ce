"""How a mount stands: one object for ``cv status``, made from its parts. Reads only."""

import os
from typing import Any, Protocol

from cloudverge_mount.config import MountConfig
from cloudverge_mount.content import Content
from cloudverge_mount.session import Session


class Names(Protocol):
    """What is asked of the vfs."""

    def status(self) -> dict[str, Any]: ...


def resident_bytes() -> int:
    """The memory this process occupies."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def reasons(session: Session, content: Content, names: dict[str, Any]) -> list[str]:
    """Everything that is not as it should be, in words."""
    found = []
    if session.trouble:
        found.append(session.trouble)
    elif session.offline:
        found.append("the metaserver does not answer: working from the cache, changes wait in the journal")
    found.extend(str(reason) for reason in names.get("degraded", ()))
    found.extend(
        f"a copy of chunk {seen.chunk} on chunkserver {seen.server} gave no good bytes: {seen.reason}"
        for seen in content.damage
    )
    found.extend(content.notes)
    return list(dict.fromkeys(found))


def describe(config: MountConfig, session: Session, vfs: Names, content: Content) -> dict[str, Any]:
    """The status of this mount."""
    names = vfs.status()
    return {
        "mountpoint": str(config.mountpoint),
        "pid": os.getpid(),
        "space": int(session.space),
        "lease": session.state,
        "pending_files": content.pending_files,
        "pending_bytes": content.pending_bytes,
        "pending_entries": names.get("pending_entries", 0),
        "journal_bytes": names.get("journal_bytes", 0),
        "cache_bytes": content.cache_bytes,
        "rss_bytes": resident_bytes(),
        "used_bytes": session.used_bytes,
        "quota_bytes": session.quota_bytes,
        "set_aside": names.get("set_aside", 0),
        "degraded": reasons(session, content, names),
    }
