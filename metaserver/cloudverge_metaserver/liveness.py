"""Which chunkservers are silent, and for how long they must be before their replicas are made anew. Pure.

A server is silent after three missed heartbeats; but when the metaserver or its database was away, nobody could
be heard, so only the time since then counts.
"""

from typing import Final

HEARTBEAT_S: Final = 3.0
MISSED: Final = 3
SILENT_AFTER_S: Final = MISSED * HEARTBEAT_S + 1.0
LOST_AFTER_S: Final = 300.0  # a server that was restarted or updated comes back sooner


def is_silent(unheard_s: float, steady_s: float) -> bool:
    """Whether a server last heard ``unheard_s`` ago is silent, if we have been listening for ``steady_s``."""
    return min(unheard_s, steady_s) > SILENT_AFTER_S


def is_lost(unheard_s: float, steady_s: float, after_s: float = LOST_AFTER_S) -> bool:
    """Whether its replicas should be counted as gone (they are taken back if it returns)."""
    return min(unheard_s, steady_s) > after_s
