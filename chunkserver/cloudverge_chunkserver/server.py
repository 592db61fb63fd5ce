"""One chunkserver put together: data folder, store, frame port. No HTTP and no metaserver: see ``__main__``.

It serves as soon as it knows its membership, from the metaserver or from the data folder; until then HELLO is
answered UNAVAILABLE.
"""

import ssl as tls
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import structlog

from cloudverge_auth.keys import KeyRing
from cloudverge_chunkserver.capacity import Capacity
from cloudverge_chunkserver.commits import Commits, Workers
from cloudverge_chunkserver.damage import DamageList
from cloudverge_chunkserver.home import Home, Membership
from cloudverge_chunkserver.links import Links
from cloudverge_chunkserver.posixdisk import PosixDisk
from cloudverge_chunkserver.registration import Report
from cloudverge_chunkserver.replicas import Replicas
from cloudverge_chunkserver.rights import Rights, user_of
from cloudverge_chunkserver.service import Service
from cloudverge_chunkserver.store import ChunkStore
from cloudverge_protocol.errors import Code, Unavailable
from cloudverge_protocol.ids import CHUNK_BYTES, PROTOCOL_VERSION, Epoch, ServerId, SpaceId
from cloudverge_protocol.messages import Hello, HelloReply
from cloudverge_wire.flow import Callers
from cloudverge_wire.frameserver import FrameServer, serve_frames

log = structlog.get_logger("cloudverge.chunkserver")

SOFTWARE = "cloudverge-chunkserver"
DAMAGE_REPORTED_MAX = 1000


class Security(NamedTuple):
    """How bytes travel: TLS contexts as server and as client, or plain text."""

    server: tls.SSLContext | None = None
    client: tls.SSLContext | None = None
    insecure: bool = False


class ChunkServer:
    """Opens the data folder at once; ``listen`` and ``close`` are the rest of its life."""

    def __init__(
        self,
        data_dir: Path,
        *,
        capacity_bytes: int = 0,
        reserve_bytes: int = -1,
        descriptors: int = 1024,
        security: Security | None = None,
    ) -> None:
        self.home = Home(data_dir)
        self._security = security = security or Security()
        self._server_ticket = ""
        self.workers = Workers()
        self.rights = Rights(time.time)
        self.links = Links(self._hello, security.client)
        self.store = ChunkStore(
            PosixDisk(data_dir, descriptors),
            Capacity(capacity_bytes, reserve_bytes=reserve_bytes),
            DamageList(data_dir / "damage.json"),
        )
        commits = Commits(self.store.disk, self.workers)
        self.service = Service(
            self.store, commits, self.workers, self.rights, self.links, self.home.receipt_key
        )
        self._frames: FrameServer | None = None
        if self.home.membership is not None:
            self.trust(self.home.membership, "")

    @property
    def replicas(self) -> Replicas:
        """Control over the chunks."""
        return self.service.replicas

    @property
    def port(self) -> int:
        """The frame port."""
        assert self._frames is not None
        return self._frames.port

    def trust(
        self,
        member: Membership,
        server_ticket: str,
        hosts: Mapping[int, str] | None = None,
        epochs: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        """Believe these keys, present this ticket, know these machines and refuse older epochs from now on."""
        self.rights.trust(
            member.cluster,
            member.server,
            KeyRing.from_public(member.meta_keys),
        )
        self.service.server = member.server
        self._server_ticket = server_ticket or self._server_ticket
        self.rights.raise_floors((SpaceId(space), Epoch(epoch)) for space, epoch in epochs.items())
        if hosts is not None:
            self.links.hosts = {ServerId(server): host for server, host in hosts.items()}

    async def listen(self, host: str, port: int) -> None:
        """Recover what is on disk, then serve."""
        await self.workers.run(self.store.load)
        self._frames = await serve_frames(
            host,
            port,
            authenticate=self._authenticate,
            hello_reply=self._hello_reply,
            handle=self.service.handle,
            ssl=self._security.server,
            insecure=self._security.insecure,
            callers=Callers(user_of),
        )

    async def close(self) -> None:
        """Answer what is under way, sync nothing that was not asked for, let go of the folder."""
        if self._frames is not None:
            await self._frames.close()
        self.links.close()
        self.workers.close()
        self.store.damage.save()
        self.store.disk.close()
        self.home.close()

    async def _authenticate(self, hello: Hello) -> object:
        if self.home.membership is None:
            raise Unavailable(Code.UNAVAILABLE, "this chunkserver has not yet been admitted to its cluster")
        return self.rights.caller(hello.token)

    def _hello(self) -> Hello:
        member = self.home.membership
        return Hello(PROTOCOL_VERSION, self._server_ticket, member.cluster if member else "", "", SOFTWARE)

    def _hello_reply(self) -> HelloReply:
        member = self.home.membership
        assert member is not None
        name = f"chunkserver-{member.server}"
        return HelloReply(PROTOCOL_VERSION, member.cluster, member.history, name, time.time_ns())

    def report(self) -> Report:
        """What the metaserver wants to know of us."""
        store = self.store
        room, claimed = store.disk.room(), store.claimed_bytes()
        free = store.capacity.free_bytes(room, claimed)
        return Report(
            free_bytes=free,
            capacity_bytes=store.capacity.total_bytes(room),
            open_bytes=claimed,
            chunks=store.chunks,
            damaged=[int(chunk) for chunk in store.damage.chunks()[:DAMAGE_REPORTED_MAX]],
            full=free < CHUNK_BYTES,
        )

    def figures(self) -> dict[str, float]:
        """Figures for metrics."""
        report = self.report()
        return {
            "free_bytes": report.free_bytes,
            "capacity_bytes": report.capacity_bytes,
            "open_claim_bytes": report.open_bytes,
            "stored_bytes": self.store.capacity.stored_bytes,
            "chunks": report.chunks,
            "open_chunks": len(self.store.open_chunks()),
            "damaged_chunks": len(report.damaged),
            "appended_bytes_total": self.service.appended_bytes,
            "read_bytes_total": self.service.read_bytes,
        }
