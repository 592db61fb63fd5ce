"""The process ``cloudverge-chunkserver``: listeners, membership, background work, in the order that is safe.

The data folder is locked and recovered first, then both ports listen (their numbers are part of the
registration), then the server registers. It is ready as soon as it has keys: at once if the data folder has
some and the metaserver does not answer within ``PATIENCE_S``.
"""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

import httpx
import structlog

from cloudverge_chunkserver.app import PUBLIC, make_app
from cloudverge_chunkserver.registration import HTTP_TIMEOUT_S, Address, Registration
from cloudverge_chunkserver.scrub import Scrub
from cloudverge_chunkserver.server import ChunkServer, Security
from cloudverge_chunkserver.settings import Settings
from cloudverge_wire.arguments import parse
from cloudverge_wire.bodylimit import LimitBody
from cloudverge_wire.gate import RequireToken
from cloudverge_wire.httpserve import serve_http
from cloudverge_wire.join import check_join_token, read_join_token
from cloudverge_wire.listen import bracketed, client_tls, server_tls
from cloudverge_wire.process import Endpoints, run

log = structlog.get_logger("cloudverge.chunkserver")

PATIENCE_S: Final = 3.0
DESCRIPTORS_MAX: Final = 8192
SAVE_S: Final = 5.0


def _descriptors() -> int:
    """Raise the limit of open files as far as we may; how many of them chunks may hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return min(DESCRIPTORS_MAX, max(64, soft // 2))


def _security(settings: Settings) -> Security:
    if settings.tls is None:
        as_client = client_tls(settings.tls_ca) if settings.tls_ca else None
        return Security(None, as_client, settings.insecure)
    return Security(server_tls(settings.tls), client_tls(settings.tls.ca), settings.insecure)


def _client(settings: Settings) -> httpx.AsyncClient:
    verify = client_tls(settings.tls_ca) if settings.tls_ca else True
    return httpx.AsyncClient(
        base_url=settings.metaserver_url, timeout=HTTP_TIMEOUT_S, verify=verify, trust_env=False
    )


def _gated_app(server: ChunkServer, registration: Registration, join_token: str) -> RequireToken:
    async def verify(token: str) -> None:
        check_join_token(token, join_token)

    def status() -> dict[str, object]:
        member = server.home.membership
        return {
            "server": member.server if member else 0,
            "cluster": member.cluster if member else "",
            "registered": registration.registered.is_set(),
            **server.figures(),
            "damaged": server.report().damaged,
        }

    app = make_app(server.figures, status)
    return RequireToken(LimitBody(app), public=PUBLIC, verify=verify)


async def _wait_for_keys(
    server: ChunkServer, registration: Registration, joining: "asyncio.Task[None]"
) -> None:
    registered = asyncio.ensure_future(registration.registered.wait())
    patience_s = PATIENCE_S if server.home.membership is not None else None
    try:
        await asyncio.wait((registered, joining), timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        registered.cancel()
    if joining.done():
        joining.result()


def _end_process(task: "asyncio.Task[None]") -> None:
    """A task that should run for ever has ended: nothing here can go on as it was meant to."""
    if not task.cancelled() and task.exception() is not None:
        log.error("the server stops", why=str(task.exception()))
        os.kill(os.getpid(), signal.SIGTERM)


async def _save_damage(server: ChunkServer, registration: Registration) -> None:
    known = len(server.store.damage)
    while True:
        await asyncio.sleep(SAVE_S)
        await server.workers.run(server.store.damage.save)
        if len(server.store.damage) > known:
            registration.poke()
        known = len(server.store.damage)


@asynccontextmanager
async def _start(settings: Settings) -> AsyncIterator[Endpoints]:
    join_token = read_join_token(settings.join_token_file)
    server = ChunkServer(
        settings.data_dir,
        capacity_bytes=settings.capacity_bytes,
        reserve_bytes=settings.reserve_bytes,
        descriptors=_descriptors(),
        security=_security(settings),
    )
    try:
        async with _client(settings) as client, _serving(settings, server, client, join_token) as endpoints:
            yield endpoints
    finally:
        await server.close()


@asynccontextmanager
async def _serving(
    settings: Settings, server: ChunkServer, client: httpx.AsyncClient, join_token: str
) -> AsyncIterator[Endpoints]:
    await server.listen(settings.host, settings.frame_port)
    registration = Registration(client, lambda: join_token, server.home, server.report, server.trust)
    app = _gated_app(server, registration, join_token)
    http = await serve_http(app, settings.host, settings.port, tls=settings.tls, insecure=settings.insecure)
    host = settings.advertise_host or settings.host
    url = f"{urlsplit(http.url).scheme}://{bracketed(host)}:{http.port}"
    registration.address = Address(host, server.port, url, settings.rack)
    scrub = Scrub(server.replicas, server.workers, settings.scrub_bytes_per_s)
    joining = asyncio.create_task(registration.run())
    tasks = [
        joining,
        asyncio.create_task(scrub.run()),
        asyncio.create_task(_save_damage(server, registration)),
    ]
    try:
        await _wait_for_keys(server, registration, joining)
        for task in tasks:
            task.add_done_callback(_end_process)
        yield Endpoints(http.url, f"{bracketed(settings.host)}:{server.port}")
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.remove_done_callback(_end_process)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await http.close()


def main() -> None:
    """Entry point of ``cloudverge-chunkserver``."""
    sys.exit(run("chunkserver", parse(Settings), _start))


if __name__ == "__main__":
    main()
