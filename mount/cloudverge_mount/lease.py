"""The arithmetic of a lease, as its holder must see it. Pure: time is passed in.

A lease counts from before the request that got it was sent, so it never ends later here than on the server.
Times are those of CLOCK_BOOTTIME, which goes on while the machine sleeps: a laptop that wakes up finds its lease
gone instead of believing in it.
"""

import time
from typing import Final, NamedTuple

RENEWALS_A_LEASE: Final = 3
RETRY_S: Final = 1.0  # between renewals that failed


def boottime() -> float:
    """Seconds of CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease(NamedTuple):
    """What a server granted at ``asked_at`` for ``lease_s``."""

    asked_at: float
    lease_s: float

    @property
    def until(self) -> float:
        """When it ends."""
        return self.asked_at + self.lease_s

    def is_valid(self, now: float) -> bool:
        """Whether it holds at ``now``."""
        return now < self.until

    def renewal_in(self, now: float) -> float:
        """Seconds from ``now`` to the next renewal."""
        return max(0.0, self.asked_at + self.lease_s / RENEWALS_A_LEASE - now)


def holder_lives(earlier_end: float, later_end: float) -> bool:
    """Whether a lease that ends later than it did a moment ago has been renewed, so its holder is alive."""
    return later_end > earlier_end + 0.5
