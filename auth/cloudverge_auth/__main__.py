"""cloudverge-auth: the process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloudverge_auth.app import make_app
from cloudverge_auth.passwords import Passwords
from cloudverge_auth.services import open_services
from cloudverge_auth.settings import AuthSettings
from cloudverge_wire.arguments import parse
from cloudverge_wire.httpserve import serve_http
from cloudverge_wire.listen import check_listener
from cloudverge_wire.process import Endpoints, run


@asynccontextmanager
async def serve(settings: AuthSettings) -> AsyncIterator[Endpoints]:
    """Serve auth's HTTP while the context lasts."""
    check_listener(settings.host, tls=settings.tls is not None, insecure=settings.insecure)
    async with open_services(settings, Passwords(settings.hashing_threads)) as services:
        server = await serve_http(
            make_app(services), settings.host, settings.port, tls=settings.tls, insecure=settings.insecure
        )
        try:
            yield Endpoints(http=server.url)
        finally:
            await server.close()


def main() -> None:
    """The console script."""
    raise SystemExit(run("auth", parse(AuthSettings), serve))


if __name__ == "__main__":
    main()
