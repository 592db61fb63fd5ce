"""No route of auth answers a stranger anything but one fixed 401, or one of the public paths."""

import json
import re
import time

import httpx
import pytest
from fastapi.routing import APIRoute

from cloudverge_auth.app import make_api
from cloudverge_auth.keys import SigningKey
from cloudverge_auth.routes import PUBLIC
from cloudverge_auth.tokens import Access, sign_access, sign_identity
from cloudverge_auth.tokens import Identity as IdentityClaims

pytestmark = pytest.mark.anyio

FIXED = {"code": "UNAUTHORIZED", "message": "a valid token is required"}
BODIES = [b"", b"{}", b"{{{ malformed", b'{"space": 1}', b"\xff\xfe", b"[" * 10_000, b"x" * 2_000_000]
EXPECTED_PUBLIC = {
    "/healthz", "/v1/keys", "/v1/ca", "/v1/signup", "/v1/login", "/v1/refresh", "/v1/machine", "/v1/enrol",
    "/docs", "/openapi.json",
}  # fmt: skip


def test_the_public_paths_are_these_and_no_more():
    assert set(PUBLIC) == EXPECTED_PUBLIC


def routes_of(auth):
    """(method, path) of every route of the application, from the application itself and from its OpenAPI."""
    api = make_api(auth.services)
    found = {
        (method, route.path)
        for route in api.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    paths = api.openapi()["paths"].items()
    found |= {(method.upper(), path) for path, methods in paths for method in methods}
    assert len(found) >= 40
    return sorted(found)


async def test_every_route_that_is_not_public_is_401_for_strangers_whatever_the_body(auth):
    closed = [(method, path) for method, path in routes_of(auth) if path not in PUBLIC]
    assert ("POST", "/v1/tickets") in closed
    assert ("DELETE", "/v1/devices/{device}") in closed
    for method, path in closed:
        for number in ("1", "0", "x", "99999999999999999999999"):
            for body in BODIES:
                url = re.sub(r"{\w+}", number, path)
                answer = await auth.http.request(method, url, content=body)
                assert (answer.status_code, answer.json()) == (401, FIXED), (method, url, body[:20])


async def test_paths_that_do_not_exist_look_the_same_to_strangers(auth):
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        for path in ("/", "/v1", "/v1/admin", "/v1/login/", "/V1/LOGIN", "/v1/keys/x", "/redoc", "//v1/keys"):
            answer = await auth.http.request(method, path, content=b"{{")
            assert (answer.status_code, answer.json()) == (401, FIXED), (method, path)


async def test_every_token_that_is_not_an_access_token_of_this_cluster_is_refused(auth):
    ann = await auth.sign_up()
    now, key, thief = time.time(), auth.services.keys.signer, SigningKey.generate()
    good = Access(str(ann.id), ann.device, 1)
    ticket = IdentityClaims(str(ann.id), "ann", ann.device, "laptop", 1, "owner", 1)
    tokens = [
        sign_access(thief, auth.cluster, good, now),
        sign_access(key, "d" * 32, good, now),
        sign_access(key, auth.cluster, good, now - 3600),
        sign_identity(key, auth.cluster, ticket, now),
        sign_access(key, auth.cluster, Access("999", ann.device, 1), now),
        sign_access(key, auth.cluster, Access(str(ann.id), 999, 1), now),
        sign_access(key, auth.cluster, Access(str(ann.id), ann.device, 999), now),
        ann.refresh,
        ann.access[:-4],
        "eyJhbGciOiJub25lIn0.e30.",
    ]
    for token in tokens:
        answer = await auth.http.get("/v1/whoami", headers={"authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json()) == (401, FIXED)
    assert await ann.is_in()


async def test_public_routes_serve_strangers(auth):
    assert (await auth.http.get("/healthz")).json() == {"status": "ok"}
    keys = (await auth.http.get("/v1/keys")).json()
    assert keys == {"cluster": auth.cluster, "keys": auth.services.keys.ring.to_public()}
    assert (await auth.http.get("/docs")).status_code == 200
    assert (await auth.http.get("/openapi.json")).status_code == 200


async def test_public_routes_answer_malformed_bodies_without_repeating_them(auth):
    for path in ("/v1/signup", "/v1/login", "/v1/refresh"):
        for body in (*BODIES, b'{"user": "x", "password": "hunter2-hunter2", "device": 5}'):
            answer = await auth.http.post(path, content=body)
            assert answer.status_code in (400, 413)
            assert set(answer.json()) == {"code", "message"}
            assert "hunter2" not in answer.text


@pytest.mark.parametrize("length", [1024 * 1024 + 1, 5_000_000])
async def test_bodies_over_a_mebibyte_are_refused(auth, length):
    ann = await auth.sign_up()
    body = json.dumps({"space": "x" * length}).encode()
    assert (await ann.request("POST", "/v1/tickets", content=body)).status_code == 413


async def test_another_users_ids_answer_like_absent_ones(auth):
    ann, bob = await auth.sign_up("ann"), await auth.sign_up("bob")
    spaces = await bob.get("/v1/spaces")

    async def strip(answer: httpx.Response, number: int):
        return answer.status_code, answer.text.replace(str(number), "N")

    for theirs, absent in ((bob.device, 4_000_000), (spaces[0]["id"], 4_000_001)):
        one = await strip(await ann.request("DELETE", f"/v1/devices/{theirs}"), theirs)
        assert one == await strip(await ann.request("DELETE", f"/v1/devices/{absent}"), absent)
    for theirs, absent in ((spaces[0]["id"], 4_000_000), ("bob", "N")):
        one = await strip(await ann.request("POST", "/v1/tickets", json={"space": theirs}), theirs)
        assert one == await strip(await ann.request("POST", "/v1/tickets", json={"space": absent}), absent)
        assert one[0] == 404
    assert await bob.is_in()
