"""Links to chunkservers: one per server and purpose, so that no request queues behind another kind's bytes.

Also what reads have found out about each server: how fast it answers and when it last failed.
"""

import ssl
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from cloudverge_mount.connection import Connection
from cloudverge_mount.link import Link
from cloudverge_protocol.ids import ServerId
from cloudverge_protocol.messages import Hello, Place

CONNECT_TIMEOUT_S = 3.0
GREET_EVERY_S = 20.0  # a ticket that is shown has 25 s at least
NEW_SHARE = 0.2  # weight of a new latency in the average
FADE_S = 10.0  # half of what is known of a server's speed is forgotten in this time
SHUN_S = 3.0  # a server that failed is asked last for so long
FIRST_GUESS_S = 0.005

HelloTo = Callable[[ServerId], Awaitable[Hello]]  # how we introduce ourselves to one server


class Standing:
    """What is known of one server as a source of reads."""

    __slots__ = ("_answered_at", "failed_at", "in_flight", "latency_s")

    def __init__(self) -> None:
        self.latency_s = FIRST_GUESS_S
        self._answered_at = 0.0
        self.in_flight = 0
        self.failed_at = -1e9

    def answered(self, elapsed_s: float, now: float) -> None:
        """A read of usual size took so long (or longer, if it was overtaken)."""
        known = self.expected_s(now)
        self.latency_s = known + NEW_SHARE * (elapsed_s - known)
        self._answered_at = now

    def expected_s(self, now: float) -> float:
        """How long a read should take. What is known fades, so a server that was slow is tried again."""
        faded: float = 0.5 ** ((now - self._answered_at) / FADE_S)
        return FIRST_GUESS_S + (self.latency_s - FIRST_GUESS_S) * faded

    def cost(self, now: float) -> float:
        """The lower, the sooner an answer is to be expected."""
        penalty = 1e3 if now < self.failed_at + SHUN_S else 0.0
        return penalty + self.expected_s(now) * (1 + self.in_flight)


class ChunkClients:
    """The links, opened on demand in ``nursery``."""

    def __init__(self, hello: HelloTo, nursery: trio.Nursery, *, tls: ssl.SSLContext | None = None) -> None:
        self._hello = hello
        self._nursery = nursery
        self._tls = tls
        self._links: dict[tuple[ServerId, str], Link] = {}
        self._addresses: dict[ServerId, tuple[str, int]] = {}
        self._standings: dict[ServerId, Standing] = {}

    async def connection(self, place: Place, purpose: str) -> Connection:
        """A standing connection to the server at ``place``; raises Unavailable or what HELLO was answered."""
        return await self._link(place, purpose).connection()

    def is_connected(self, place: Place, purpose: str) -> bool:
        """Whether a connection for this purpose stands already."""
        link = self._links.get((place.server, purpose))
        return link is not None and link.connected

    def distrust(self, server: ServerId) -> None:
        """A server did not believe us: introduce ourselves anew on every connection to it."""
        for (known, _), link in self._links.items():
            if known == server:
                link.distrust()

    def standing(self, server: ServerId) -> Standing:
        """What reads know of ``server``."""
        known = self._standings.get(server)
        if known is None:
            known = self._standings[server] = Standing()
        return known

    def _link(self, place: Place, purpose: str) -> Link:
        server = place.server
        self._addresses[server] = (place.host, place.port)
        link = self._links.get((server, purpose))
        if link is None:
            link = self._links[server, purpose] = Link(
                lambda: self._addresses[server],
                partial(self._hello, server),
                self._nursery,
                tls=self._tls,
                connect_timeout_s=CONNECT_TIMEOUT_S,
                greet_every_s=GREET_EVERY_S,
            )
        return link

    def close(self) -> None:
        """Close every connection."""
        for link in self._links.values():
            link.close()
