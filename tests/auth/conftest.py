"""Auth on a real database, with a cheap hasher: an application to call, and users on it."""

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import argon2
import asyncpg
import httpx
import pytest

from cloudverge_auth.app import make_app
from cloudverge_auth.passwords import Passwords
from cloudverge_auth.services import Services, open_services
from cloudverge_auth.settings import AuthSettings
from cloudverge_auth.tokens import Identity, verify_identity
from cloudverge_wire.clusterid import ensure_cluster
from cloudverge_wire.join import new_join_token
from cloudverge_wire.migrate import migrate

PASSWORD = "correct horse battery"
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture(scope="session")
def anyio_backend() -> Any:
    """As the server runs."""
    return "asyncio", {"use_uvloop": True}


async def _fill(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await ensure_cluster(connection)
    await migrate(connection, "cloudverge_auth", "auth")
    await connection.close()


@pytest.fixture
def dsn_file(postgres, tmp_path) -> Any:
    """A migrated database of this test alone, named in a file."""
    postgres.template("auth", _fill)
    with postgres.database("auth") as dsn:
        path = tmp_path / "dsn"
        path.touch(0o600)
        path.write_text(dsn)
        yield path


class User:
    """Somebody signed in, and their requests."""

    def __init__(self, http: httpx.AsyncClient, signed_in: dict[str, Any], name: str) -> None:
        self.http, self.name = http, name
        self.take(signed_in)

    def take(self, signed_in: dict[str, Any]) -> None:
        self.id, self.device = signed_in["user_id"], signed_in["device_id"]
        self.access, self.refresh = signed_in["access_token"], signed_in["refresh_token"]

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.access}"}
        return await self.http.request(method, path, headers=headers, **options)

    async def get(self, path: str) -> Any:
        answer = await self.request("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def ask(self, method: str, path: str, /, **body: Any) -> httpx.Response:
        """A request with a JSON body, if there is anything to say."""
        return await self.request(method, path, **({"json": body} if body else {}))

    async def do(self, method: str, path: str, /, **body: Any) -> Any:
        """The same; it must succeed."""
        answer = await self.ask(method, path, **body)
        assert answer.is_success, answer.text
        return answer.json()

    async def space(self, name: str = "") -> int:
        """The id of a space of mine."""
        (found,) = [
            each["id"] for each in await self.get("/v1/spaces") if each["name"] == (name or self.name)
        ]
        return int(found)

    async def team(self, name: str = "crew", **members: str) -> int:
        """A new team space with members, by name and role."""
        space = (await self.do("POST", "/v1/spaces", name=name))["id"]
        for user, role in members.items():
            await self.do("POST", f"/v1/spaces/{space}/members", user=user, role=role)
        return int(space)

    async def is_in(self) -> bool:
        return (await self.request("GET", "/v1/whoami")).status_code == 200


class Auth:
    """A running application."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.join_token = services.join_token
        self.cluster = services.ids.cluster
        self.app = make_app(services)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://auth")

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.http.post(path, json=body)

    async def sign_up(self, name: str = "ann", device: str = "laptop") -> User:
        answer = await self.post("/v1/signup", user=name, password=PASSWORD, device=device)
        assert answer.status_code == 201, answer.text
        return User(self.http, answer.json(), name)

    async def log_in(self, name: str = "ann", device: str = "laptop", password: str = PASSWORD) -> User:
        answer = await self.post("/v1/login", user=name, password=password, device=device)
        assert answer.status_code == 200, answer.text
        return User(self.http, answer.json(), name)

    async def as_server(self, method: str, path: str, /, **body: Any) -> httpx.Response:
        """A request with the join token."""
        headers = {"authorization": f"Bearer {self.join_token}"}
        return await self.http.request(method, path, headers=headers, **({"json": body} if body else {}))

    async def revocations(self) -> Any:
        answer = await self.as_server("GET", "/v1/revocations")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def epoch(self, space: int) -> int:
        return int(await self.sql("select membership_epoch from spaces where id = $1", space))

    async def claims(self, user: User, **body: Any) -> Identity:
        """What the ticket says that the user gets for this body."""
        return self.read(await user.do("POST", "/v1/tickets", **(body or {"space": ""})))

    def read(self, ticket: dict[str, Any]) -> Identity:
        return verify_identity(self.services.keys.ring, ticket["ticket"], self.cluster, time.time())

    async def make_admin(self, user: User) -> None:
        await self.sql("update users set admin = true where id = $1", user.id)

    async def sql(self, query: str, *arguments: Any) -> Any:
        return await self.services.pool.fetchval(query, *arguments)


@pytest.fixture
async def start_auth(dsn_file, tmp_path, anyio_backend) -> AsyncIterator[Any]:
    """Starts applications on this test's database, with the settings given and a join token."""
    join = tmp_path / "join-token"
    join.touch(0o600)
    join.write_text(new_join_token())
    async with contextlib.AsyncExitStack() as stack:

        async def start(**settings: Any) -> Auth:
            chosen = AuthSettings(dsn_file=Path(dsn_file), join_token_file=join, **settings)
            services = await stack.enter_async_context(open_services(chosen, Passwords(2, CHEAP)))
            made = Auth(services)
            await stack.enter_async_context(made.http)
            return made

        yield start


@pytest.fixture
async def auth(start_auth) -> Auth:
    """One application with default settings."""
    return await start_auth()
