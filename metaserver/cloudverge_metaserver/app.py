"""A metaserver put together: ``started`` is everything between a parsed setting and a served request.

Start: connect (retried for a while), migrate, learn the cluster's ids and keys, then listen. Nothing here
remembers anything: a process that is killed leaves nothing behind but database transactions that end.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import asyncpg
import stamina

from cloudverge_metaserver.chunks import Chunks
from cloudverge_metaserver.cluster import Cluster
from cloudverge_metaserver.database import Database
from cloudverge_metaserver.frames import FrameRoutes
from cloudverge_metaserver.publishedkeys import PublishedKeys
from cloudverge_metaserver.reading import Reading
from cloudverge_metaserver.routes import make_app
from cloudverge_metaserver.servers import Servers
from cloudverge_metaserver.sessions import Sessions
from cloudverge_metaserver.settings import MetaSettings
from cloudverge_metaserver.signingkeys import ensure_signing_key
from cloudverge_metaserver.tickets import TicketDesk
from cloudverge_protocol.errors import Unavailable
from cloudverge_protocol.ids import PROTOCOL_VERSION
from cloudverge_protocol.messages import Hello, HelloReply
from cloudverge_wire.clusterid import ClusterIds, ensure_cluster
from cloudverge_wire.database import database_errors, read_dsn
from cloudverge_wire.frameserver import serve_frames
from cloudverge_wire.httpserve import serve_http
from cloudverge_wire.join import read_join_token
from cloudverge_wire.listen import server_tls
from cloudverge_wire.migrate import migrate
from cloudverge_wire.process import Endpoints

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
        keys = PublishedKeys(settings.auth_url, ids.cluster, database)
        stack.push_async_callback(keys.close)
        await _first_keys(keys)
        desk = TicketDesk(signing, ids.cluster)
        servers = Servers(database, settings.lost_after_s)
        cluster = Cluster(
            ids,
            database,
            keys,
            ring,
            desk,
            servers,
            join_token,
            settings.replicas,
            lambda server, chunk: None,
        )
        sessions = Sessions(database, settings.lease_s, settings.replicas)
        routes = FrameRoutes(database, sessions, Chunks(database, servers, desk), Reading(database))
        yield await _listen(stack, settings, cluster, routes)


async def _first_keys(keys: PublishedKeys) -> None:
    """Those known from before, or auth's, if it answers soon; later ones are fetched when a ticket needs them."""
    await keys.load()
    for _ in range(KEYS_TRIES):
        if await keys.refresh() or keys.ring.keys:
            return
        await asyncio.sleep(1.0)


async def _listen(
    stack: AsyncExitStack, settings: MetaSettings, cluster: Cluster, routes: FrameRoutes
) -> Endpoints:
    async def authenticate(hello: Hello) -> object:
        return await cluster.keys.identify(hello.token)

    def hello_reply() -> HelloReply:
        return HelloReply(
            PROTOCOL_VERSION, cluster.ids.cluster, cluster.ids.history, "metaserver", time.time_ns()
        )

    tls = settings.tls
    refreshing = asyncio.create_task(cluster.keys.run())
    stack.callback(refreshing.cancel)
    frames = await serve_frames(
        settings.host,
        settings.frame_port,
        authenticate=authenticate,
        hello_reply=hello_reply,
        handle=routes.handle,
        ssl=server_tls(tls) if tls else None,
        insecure=settings.insecure,
    )
    stack.push_async_callback(frames.close)
    http = await serve_http(
        make_app(cluster), settings.host, settings.port, tls=tls, insecure=settings.insecure
    )
    stack.push_async_callback(http.close)
    return Endpoints(http.url, f"{settings.host}:{frames.port}")
