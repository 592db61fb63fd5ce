"""The OpenAPI document tells the truth: requests made from it by schemathesis get the answers that it declares.

An application with a cheap hasher is served on a real socket; schemathesis runs as a process of its own, so its
pytest plugin and its threads are none of ours. Tokens go through its environment.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pytest

from cloudverge_auth.app import make_api
from cloudverge_auth.routes import PUBLIC, is_for_servers
from cloudverge_wire.httpserve import serve_http

pytestmark = pytest.mark.anyio

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
EXAMPLES = 8
WITHIN_S = 110
CONFIG = '[headers]\nAuthorization = "Bearer ${CV_TOKEN}"\n'


@contextlib.asynccontextmanager
async def served(auth):
    server = await serve_http(auth.app, "127.0.0.1", 0)
    try:
        yield server.url
    finally:
        await server.close()


async def schemathesis(folder: Path, url: str, token: str, *arguments: str) -> tuple[int, str]:
    """Run it on the document at ``url``; its exit status and what it said."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{url}/openapi.json",
        "--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", "1",
        "--no-shrink", "--suppress-health-check", "all", "--warnings", "off", *arguments,
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, "CV_TOKEN": token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(WITHIN_S):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, said.decode(errors="replace")


FOR_SERVERS = "^/v1/(revocations|nodes|links/open|spaces/[^/]+/purged)$"
OWN_END = "^(POST /v1/logout|DELETE /v1/devices/.*|PATCH /v1/admin/users/.*)$"  # what may end one's own right


async def test_requests_of_an_administrator_get_the_answers_that_are_declared(auth, tmp_path):
    ann = await auth.sign_up("ann")
    await auth.make_admin(ann)
    await ann.team()
    async with served(auth) as url:
        status, said = await schemathesis(tmp_path, url, ann.access, "--exclude-name-regex", OWN_END)
        assert status == 0, said
        assert (await ann.ask("GET", "/v1/admin/users")).status_code == 200  # it was one until the end
        status, said = await schemathesis(tmp_path, url, ann.access, "--include-name-regex", OWN_END)
        assert status == 0, said


async def test_requests_of_a_server_get_the_answers_that_are_declared(auth, tmp_path):
    async with served(auth) as url:
        status, said = await schemathesis(tmp_path, url, auth.join_token, "--include-path-regex", FOR_SERVERS)
        assert status == 0, said
    assert await auth.sql("select count(*) from enrolments") > 0


async def test_requests_of_a_stranger_get_the_answers_that_are_declared(auth, tmp_path):
    async with served(auth) as url:
        status, said = await schemathesis(tmp_path, url, "nonsense", "--max-examples", "2")
        assert status == 0, said


def test_the_document_names_every_route_and_what_opens_it(auth):
    api = make_api(auth.services)
    document = api.openapi()
    assert "422" not in str(document)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert ("security" in operation) == (path not in PUBLIC), (method, path)
            assert {"400", "413", "503", "504"} <= set(operation["responses"])
            assert path in PUBLIC or "401" in operation["responses"]
            assert operation["description"]
    assert {path for path in document["paths"] if is_for_servers(path)} == {
        "/v1/revocations", "/v1/links/open", "/v1/nodes", "/v1/spaces/{space}/purged",
    }  # fmt: skip
