"""For how long the kernel may keep what it was told, whichever binding tells it. Pure.

With an exclusive lease every change passes through this mount, so names and attributes may be kept for long, and names
that do not exist too; what changes elsewhere is taken back from the kernel (see ``kernelcache``). Two things may not:
attributes of a file whose setuid or setgid bit a write may clear (the kernel leaves that to us and does not ask again),
and names that are absent in the root. A folder's are taken back with the folder; nothing takes back the root, and when
all is read anew nobody knows for which absent names the kernel had asked.
"""

import stat
from typing import Final

EXCLUSIVE_CACHE_S: Final = 3600.0
ROOT: Final = 1
_SETID_OR_KIND: Final = stat.S_IFREG | stat.S_ISUID | stat.S_ISGID
_SETID_FILES: Final = (
    stat.S_IFREG | stat.S_ISUID,
    stat.S_IFREG | stat.S_ISGID,
    stat.S_IFREG | stat.S_ISUID | stat.S_ISGID,
)


def attributes_s(mode: int, cache_s: float) -> float:
    """Attributes of an inode of this mode, in seconds, where others are kept for ``cache_s``."""
    return cache_s if mode & _SETID_OR_KIND not in _SETID_FILES else 0.0


def absence_s(parent: int, cache_s: float) -> float:
    """That a name is not there in this folder."""
    return 0.0 if parent == ROOT else cache_s
