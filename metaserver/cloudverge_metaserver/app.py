"""A metaserver put together: ``started`` is everything between a parsed setting and a served request.

Start: connect (retried for a while), migrate, learn the cluster's ids and keys, then listen. Nothing here
remembers anything: a process that is killed leaves nothing behind but database transactions that end.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg
import stamina
import structlog

from cloudverge_metaserver.audit import Auditor
from cloudverge_metaserver.auditlog import AuditLog
from cloudverge_metaserver.authority import Authority
from cloudverge_metaserver.barring import Barring
from cloudverge_metaserver.chunks import Chunks
from cloudverge_metaserver.cluster import Cluster
from cloudverge_metaserver.contents import Contents
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.deletion import Deletion
from cloudverge_metaserver.frames import FRAME_BYTES, USER_BYTES, FrameRoutes, user_of
from cloudverge_metaserver.gateway import LinkGateway
from cloudverge_metaserver.housekeeping import Abandoned, Job
from cloudverge_metaserver.linkcookie import LinkCookies
from cloudverge_metaserver.links import Links
from cloudverge_metaserver.paths import Paths
from cloudverge_metaserver.pruning import Pruner
from cloudverge_metaserver.publishedkeys import PublishedKeys
from cloudverge_metaserver.purge import Purger
from cloudverge_metaserver.reading import Reading
from cloudverge_metaserver.reaping import Reaper
from cloudverge_metaserver.repair import Repairer
from cloudverge_metaserver.revocations import Revocations
from cloudverge_metaserver.routes import ForPeople, make_app
from cloudverge_metaserver.sealing import Sealer
from cloudverge_metaserver.servers import Servers
from cloudverge_metaserver.sessions import Sessions
from cloudverge_metaserver.settings import MetaSettings
from cloudverge_metaserver.signingkeys import ensure_signing_key
from cloudverge_metaserver.suspicion import Suspicions
from cloudverge_metaserver.tickets import TicketDesk
from cloudverge_protocol.errors import CloudVergeError, Unavailable
from cloudverge_protocol.ids import PROTOCOL_VERSION
from cloudverge_protocol.messages import FrameType, Hello, HelloReply
from cloudverge_wire.clusterid import ClusterIds, ensure_cluster
from cloudverge_wire.database import database_errors, read_dsn
from cloudverge_wire.flow import Callers, Shares
from cloudverge_wire.frameserver import serve_frames
from cloudverge_wire.httpserve import serve_http
from cloudverge_wire.join import read_join_token
from cloudverge_wire.listen import bracketed, client_tls, server_tls
from cloudverge_wire.migrate import migrate
from cloudverge_wire.process import Endpoints

_log = structlog.get_logger("cloudverge.metaserver")

START_WITHIN_S: Final = 60.0
KEYS_TRIES: Final = 10


async def prepare_database(dsn: str, cluster_id: str = "") -> ClusterIds:
    """Migrate the schema and learn the cluster's ids; raises Unavailable while the database is away."""
    with database_errors():
        connection = await asyncpg.connect(dsn, timeout=5)
        try:
            ids = await ensure_cluster(connection, cluster_id)
            await migrate(connection, "cloudverge_metaserver", "meta")
        finally:
            await connection.close(timeout=5)
    return ids


@asynccontextmanager
async def started(settings: MetaSettings) -> AsyncIterator[Endpoints]:
    """A running metaserver."""
    dsn, join_token = read_dsn(settings.dsn_file), read_join_token(settings.join_token_file)
    async for attempt in stamina.retry_context(
        on=Unavailable, attempts=None, timeout=START_WITHIN_S, wait_initial=0.1, wait_max=1.0
    ):
        with attempt:
            ids = await prepare_database(dsn, settings.cluster_id)
    async with AsyncExitStack() as stack:
        database = Database(dsn)
        await database.open()
        stack.push_async_callback(database.close)
        signing, ring = await ensure_signing_key(database)
        as_client = client_tls(settings.tls_ca) if settings.tls_ca else None
        keys = PublishedKeys(settings.auth_url, ids.cluster, database, as_client)
        stack.push_async_callback(keys.close)
        await _first_keys(keys)
        authority = Authority(settings.auth_url, join_token, settings.tls_ca)
        stack.push_async_callback(authority.close)
        revocations = Revocations(authority)
        desk = TicketDesk(signing, ids.cluster)
        servers = Servers(database, settings.lost_after_s)
        links = Links(lambda: _hello(desk, ids), as_client)
        stack.callback(links.close)
        barring = Barring(revocations, database, servers, links, desk)
        keys.check = barring.check
        await _first_revocations(revocations)
        sealer = Sealer(database, links, desk)
        suspicions = Suspicions(database, links, desk, sealer)
        cluster = Cluster(
            ids, database, keys, ring, desk, servers, join_token, settings.replicas, suspicions.suspect,
            revocations.lately,
        )  # fmt: skip
        sessions = Sessions(database, settings.lease_s, settings.replicas)
        chunks = Chunks(database, servers, desk)
        routes = FrameRoutes(database, sessions, chunks, Reading(database), barring.check)
        routes.add(FrameType.CHUNK_SEAL, sealer.seal_own)
        routes.add(FrameType.DAMAGE, suspicions.report)
        contents = Contents(database, links, desk, suspicions.suspect)
        cookies = LinkCookies(signing.to_bytes())
        gateway = LinkGateway(
            authority, contents, cookies, revocations.ended, secure=settings.tls is not None
        )
        people = ForPeople(gateway, Paths(database), AuditLog(database))
        purge = Job("purge", Purger(database, authority, lambda: revocations.deleted).run, 5.0)
        revocations.on_deleted = purge.kick
        jobs = _jobs(settings, cluster, links, sealer)
        routes.housekeep = jobs.kick
        suspicions.found = jobs.kick
        for work in (keys.run, revocations.run, suspicions.run, purge.loop, *(job.loop for job in jobs.all)):
            stack.push_async_callback(_cancelled, asyncio.create_task(work()))
        yield await _listen(stack, settings, cluster, people, routes)


@dataclass(frozen=True)
class _Jobs:
    all: tuple[Job, ...]

    def kick(self) -> None:
        for job in self.all:
            job.kick()


def _jobs(settings: MetaSettings, cluster: Cluster, links: Links, sealer: Sealer) -> _Jobs:
    database, servers, desk = cluster.database, cluster.servers, cluster.desk
    deletion = Deletion(database, servers, links, desk, settings.delete_grace_s)
    repairer = Repairer(database, servers, links, desk, sealer, settings.settle_s)
    return _Jobs(
        (
            Job("seal", Abandoned(database, sealer).run, 2.0),
            Job("reap", Reaper(database).run, 10.0),
            Job("delete", deletion.run, 3.0),
            Job("repair", repairer.run, 5.0),
            Job("audit", Auditor(database, settings.audit_days).run, 1.0),
            Job("prune", Pruner(database).run, 3600.0),
        )
    )


def _hello(desk: TicketDesk, ids: ClusterIds) -> Hello:
    """How we introduce ourselves to chunkservers."""
    return Hello(PROTOCOL_VERSION, desk.own("metaserver", time.time()), ids.cluster, software="metaserver")


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _first_keys(keys: PublishedKeys) -> None:
    """Those known from before, or auth's, if it answers soon; later ones are fetched when a ticket needs them."""
    await keys.load()
    for _ in range(KEYS_TRIES):
        if await keys.refresh() or keys.ring.keys:
            return
        await asyncio.sleep(1.0)


async def _first_revocations(revocations: Revocations) -> None:
    """What ended just before we started; while auth is away tickets cannot be older than a minute anyway."""
    try:
        await revocations.poll()
    except CloudVergeError as error:
        _log.warning("what has been revoked is not known just now", reason=error.message)


async def _listen(
    stack: AsyncExitStack, settings: MetaSettings, cluster: Cluster, people: ForPeople, routes: FrameRoutes
) -> Endpoints:
    async def authenticate(hello: Hello) -> object:
        return await cluster.keys.identify(hello.token)

    def hello_reply() -> HelloReply:
        return HelloReply(
            PROTOCOL_VERSION, cluster.ids.cluster, cluster.ids.history, "metaserver", time.time_ns()
        )

    tls = settings.tls
    frames = await serve_frames(
        settings.host,
        settings.frame_port,
        authenticate=authenticate,
        hello_reply=hello_reply,
        handle=routes.handle,
        ssl=server_tls(tls) if tls else None,
        insecure=settings.insecure,
        shares=Shares(user_of, USER_BYTES),
        callers=Callers(user_of),
        frame_bytes=FRAME_BYTES,
    )
    stack.push_async_callback(frames.close)
    http = await serve_http(
        make_app(cluster, people), settings.host, settings.port, tls=tls, insecure=settings.insecure
    )
    stack.push_async_callback(http.close)
    return Endpoints(http.url, f"{bracketed(settings.host)}:{frames.port}")
