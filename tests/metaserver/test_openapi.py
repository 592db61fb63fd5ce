"""The published description of the metaserver and the chunkserver is kept, whoever asks whatever."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.fixtures.contract import assert_keeps_its_contract
from tests.fixtures.metamachine import JOIN_TOKEN, Machine, Running, running_machine
from tests.fixtures.standinauth import stand_in_auth

WITHOUT_LINKS = ("--exclude-path-regex", "^/l/")  # they are the same for all

pytestmark = [pytest.mark.anyio, pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
async def machine(meta_database, make_world_on, tmp_path_factory, anyio_backend) -> AsyncIterator[Machine]:
    world = await make_world_on(meta_database)
    folder = tmp_path_factory.mktemp("machine")
    try:
        async with (
            stand_in_auth(JOIN_TOKEN) as auth,
            running_machine(meta_database, world, folder, auth_url=auth.url, servers=2) as made,
        ):
            yield made
    finally:
        await world.database.close()


@pytest.fixture(scope="module", autouse=True)
async def chunkserver_url(machine) -> str:
    """Asked for before a test takes the server's registration over, which the join token allows."""
    return await machine.world.value("select http_url from meta.servers order by server limit 1")


async def test_a_strangers_answers_are_described(machine, tmp_path):
    await assert_keeps_its_contract(machine.endpoints.http, tmp_path)


async def test_an_owners_answers_are_described(machine, tmp_path, make_identity):
    running = Running(machine, make_identity(space=1, user=1))
    await running.connect()
    await running.open()
    await running.stored_file(b"x")
    running.client.close()
    await assert_keeps_its_contract(machine.endpoints.http, tmp_path, running.ticket(), 30, *WITHOUT_LINKS)


async def test_a_guests_answers_are_described(machine, tmp_path, make_identity):
    guest = Running(machine, make_identity(space=1, user=2, role="reader", grant=3, root=1024))
    await assert_keeps_its_contract(machine.endpoints.http, tmp_path, guest.ticket(), 12, *WITHOUT_LINKS)


async def test_a_servers_answers_are_described(machine, tmp_path):
    await assert_keeps_its_contract(machine.endpoints.http, tmp_path, JOIN_TOKEN, 30, *WITHOUT_LINKS)


async def test_the_answers_of_a_chunkserver_are_described(chunkserver_url, tmp_path):
    await assert_keeps_its_contract(chunkserver_url, tmp_path, JOIN_TOKEN)


async def test_a_stranger_learns_of_a_chunkserver_what_is_described(chunkserver_url, tmp_path):
    await assert_keeps_its_contract(chunkserver_url, tmp_path)


async def test_every_route_declares_its_token_and_its_refusals(machine, chunkserver_url):
    for url in (machine.endpoints.http, chunkserver_url):
        async with httpx.AsyncClient(base_url=url) as client:
            schema = (await client.get("/openapi.json")).json()
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                public = path in ("/healthz", "/v1/keys") or path.startswith("/l/")
                assert ("security" in operation) != public, path
                assert ("401" in operation["responses"]) != public or path.endswith("/file"), path
                assert "422" not in operation["responses"]


@pytest.mark.parametrize("field", ["server_uuid", "host", "http_url", "rack"])
async def test_text_that_the_database_cannot_keep_is_a_bad_request(machine, field):
    body = {
        "server_uuid": "u" * 32, "host": "127.0.0.1", "frame_port": 1, "http_url": "http://x", "rack": "",
        "receipt_key": "A" * 43, "capacity_bytes": 0, "free_bytes": 0, field: "eight\0more",
    }  # fmt: skip
    async with httpx.AsyncClient(base_url=machine.endpoints.http) as client:
        headers = {"authorization": f"Bearer {JOIN_TOKEN}"}
        answer = await client.post("/v1/servers/register", json=body, headers=headers)
    assert answer.status_code == 400, answer.text
