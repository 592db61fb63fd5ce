"""A byte budget that tasks wait on: what keeps the dirty buffer bounded.

``try_take`` answers at once; ``wait`` parks until somebody gives bytes back. Waiters are woken in the order
they came. A single request larger than the whole budget passes when nothing else is held, so nothing waits
for room that can never be. The rule how long a caller waits is the caller's (it knows what progress is).
"""

import trio


class Budget:
    """``limit_bytes`` to be held together."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._parked = trio.lowlevel.ParkingLot()

    @property
    def waiting(self) -> int:
        """How many tasks wait for room."""
        return len(self._parked)

    def has_room(self, count: int) -> bool:
        """Whether ``count`` bytes fit now."""
        return self.held_bytes + count <= self.limit_bytes or self.held_bytes == 0

    def charge(self, count: int) -> None:
        """Hold ``count`` more bytes (fewer if negative) and wake a waiter if there is room again."""
        self.held_bytes += count
        if count < 0 and self._parked and self.held_bytes < self.limit_bytes:
            self._parked.unpark()

    async def wait(self) -> None:
        """Until bytes have been given back; there may still be too little room for this caller."""
        await self._parked.park()

    def wake(self) -> None:
        """Wake one waiter: it passes the turn on when it has taken its bytes and room is left."""
        if self._parked and self.held_bytes < self.limit_bytes:
            self._parked.unpark()

    def wake_all(self) -> None:
        """Wake every waiter, to look at what has become of its hopes."""
        self._parked.unpark_all()
