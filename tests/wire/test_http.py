"""The gate, bounded bodies and the errors, on a real HTTP listener."""

import asyncio
import contextlib
import json

import httpx
import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel

from cloudverge_protocol.errors import Code, Denied, NoRoom, Refused, Unavailable, make_error
from cloudverge_wire.bodylimit import LimitBody
from cloudverge_wire.gate import RequireToken, bearer_of
from cloudverge_wire.httperrors import UNAUTHORIZED_BODY, answer_errors, status_of
from cloudverge_wire.httpserve import serve_http

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


GOOD = {"authorization": "Bearer good"}


class Thing(BaseModel):
    name: str
    password: str = ""


def make_app(**limits):
    api = FastAPI()
    answer_errors(api)

    @api.get("/open")
    async def is_open():
        return "open"

    @api.post("/open/thing")
    async def open_thing(thing: Thing):
        return thing.name

    @api.post("/thing")
    async def closed_thing(request: Request, thing: Thing):
        return {"claims": request.state.claims, "name": thing.name}

    @api.post("/size")
    async def size(request: Request):
        return len(await request.body())

    @api.get("/error/{code}")
    async def error(code: int):
        failure = make_error(code, "what happened")
        failure.retry_after_s = 1.2
        raise failure

    @api.get("/bug")
    async def bug():
        raise RuntimeError("the password is hunter2")

    async def verify(token):
        if token == "away":
            raise Unavailable(Code.UNAVAILABLE, "keys are away")
        if token != "good":
            raise Denied(Code.UNAUTHORIZED, "a reason that must not show")
        return token

    return RequireToken(LimitBody(api, **limits), public=("/open", "/open/thing"), verify=verify)


@pytest.fixture
async def http(anyio_backend):
    server = await serve_http(make_app(limit_bytes=1000), "127.0.0.1", 0)
    async with httpx.AsyncClient(base_url=server.url) as client:
        yield client
    await server.close()


STRANGERS = [
    {},
    {"authorization": ""},
    {"authorization": "Bearer"},
    {"authorization": "Bearer bad"},
    {"authorization": "Basic good"},
    {"authorization": "good"},
    {"authorization": "Bearer " + "x" * 5000},
    {"authorization": "Bearer g\u00f6\u00f6d".encode()},
]


@pytest.mark.parametrize("headers", STRANGERS)
async def test_a_stranger_gets_one_fixed_answer_whatever_is_asked(http, headers):
    for method, path, body in [
        ("POST", "/thing", b'{"name": "x"}'),
        ("POST", "/thing", b"{{{ not json"),
        ("POST", "/thing", b"x" * 100_000),
        ("PUT", "/thing", b""),
        ("GET", "/no/such/path", b""),
        ("POST", "/open/", b""),
        ("GET", "/OPEN", b""),
        ("GET", "/open/../thing", b""),
        ("GET", "/%6fpen/x", b""),
        ("GET", "/bug", b""),
        ("GET", "/docs", b""),
    ]:
        answer = await http.request(method, path, content=body, headers=headers)
        assert (answer.status_code, answer.content) == (401, UNAUTHORIZED_BODY), path
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_two_authorization_headers_are_none(http):
    answer = await http.get(
        "/error/1", headers=[("authorization", "Bearer good"), ("authorization", "Bearer good")]
    )
    assert answer.status_code == 401


async def test_public_paths_need_no_token_and_a_bad_one_does_no_harm(http):
    assert (await http.get("/open")).json() == "open"
    assert (await http.get("/open", headers={"authorization": "Bearer bad"})).json() == "open"


async def test_a_valid_token_reaches_the_route_with_its_claims(http):
    answer = await http.post("/thing", json={"name": "x"}, headers={"authorization": "bearer good"})
    assert answer.json() == {"claims": "good", "name": "x"}


async def test_keys_that_are_away_are_not_a_401(http):
    answer = await http.get("/bug", headers={"authorization": "Bearer away"})
    assert answer.status_code == 503
    assert answer.json() == {"code": "UNAVAILABLE", "message": "keys are away"}


async def test_errors_carry_their_code_their_status_and_their_hint(http):
    for code, status in [(Code.NOT_FOUND, 404), (Code.QUOTA, 507), (Code.UNAVAILABLE, 503), (Code.BUSY, 429)]:
        answer = await http.get(f"/error/{code}", headers=GOOD)
        assert answer.status_code == status
        assert answer.json() == {"code": code.name, "message": "what happened"}
        assert answer.headers["retry-after"] == "2"


async def test_what_the_caller_sent_does_not_come_back(http):
    for body in (b'{"name": 1, "password": "hunter2"}', b'{"password": "hunter2"}', b"hunter2"):
        for path in ("/thing", "/open/thing"):
            answer = await http.post(path, content=body, headers=GOOD)
            assert answer.status_code == 400
            assert answer.json()["code"] == "BAD_REQUEST"
            assert "hunter2" not in answer.text


async def test_a_bug_is_internal_and_tells_nothing(http, capsys):
    answer = await http.get("/bug", headers=GOOD)
    assert answer.status_code == 500
    assert answer.json()["code"] == "INTERNAL"
    assert "hunter2" not in answer.text


async def test_unknown_paths_and_methods_look_like_other_errors(http):
    assert (await http.get("/none", headers=GOOD)).json()["code"] == "NOT_FOUND"
    answer = await http.get("/thing", headers=GOOD)
    assert (answer.status_code, answer.json()["code"]) == (405, "BAD_REQUEST")


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
async def test_bodies_are_bounded(http, announced):
    async def pieces(size):
        yield bytes(size)

    for size, status in ((1000, 200), (1001, 413)):
        content = bytes(size) if announced else pieces(size)
        answer = await http.post("/size", content=content, headers=GOOD)
        assert answer.status_code == status
    assert answer.json()["code"] == "TOO_BIG"


async def test_a_body_that_does_not_come_is_given_up(anyio_backend):
    server = await serve_http(make_app(within_s=0.1), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"POST /size HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nContent-Length: 9\r\n\r\nabc"
    )
    async with asyncio.timeout(5):
        assert b" 504 " in await reader.readline()
    writer.close()
    await writer.wait_closed()
    await server.close()


async def stranger(http, *parts):
    """The status line that a raw connection is answered, b"" if it is just closed."""
    reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
    try:
        async with asyncio.timeout(10):
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await reader.readline()
    except ConnectionError:
        return b"cut"
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize("piece", [b"X-Long: " + b"y" * 50_000 + b"\r\n", b"y" * 50_000], ids=["many", "one"])
async def test_a_strangers_endless_head_is_cut_off(http, piece):
    status = await stranger(http, b"GET / HTTP/1.1\r\nHost: x\r\nX-First: ", *([piece] * 400))
    assert status == b"cut" or b" 431 " in status


async def test_endless_trailers_are_cut_off(http):
    head = (
        b"POST /size HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    status = await stranger(http, head, b"0\r\n", *([b"X-Long: " + b"y" * 50_000 + b"\r\n"] * 400))
    assert status == b"cut" or b" 431 " in status


@pytest.mark.parametrize("start", [b"", b"GET / HT"], ids=["nothing", "half a line"])
async def test_a_head_that_does_not_come_is_given_up(http, monkeypatch, start):
    monkeypatch.setattr("cloudverge_wire.boundedhttp.HEAD_WITHIN_S", 0.1)
    assert await stranger(http, start) == b""


async def test_many_requests_and_large_bodies_are_no_large_head(anyio_backend):
    server = await serve_http(make_app(), "127.0.0.1", 0)
    async with httpx.AsyncClient(base_url=server.url, headers=GOOD) as client:
        for _ in range(5):
            assert (await client.post("/size", content=bytes(1_000_000))).json() == 1_000_000
        for _ in range(100):
            assert (await client.get("/open", headers={"x-filler": "y" * 2000})).status_code == 200
    await server.close()


async def test_closing_answers_what_is_under_way(anyio_backend):
    entered = asyncio.Event()

    async def slow(scope, receive, send):
        entered.set()
        await asyncio.sleep(0.2)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    server = await serve_http(slow, "127.0.0.1", 0)
    async with httpx.AsyncClient(base_url=server.url) as client:
        answer = asyncio.ensure_future(client.get("/"))
        await entered.wait()
        await server.close()
        assert (await answer).status_code == 204


def test_every_code_has_a_status():
    for code in Code:
        assert 400 <= status_of(code) <= 599
    assert status_of(Code.NO_CHUNK) == status_of(Code.NOT_FOUND)


def test_the_fixed_body_is_what_the_error_tree_would_say():
    assert json.loads(UNAUTHORIZED_BODY) == {"code": "UNAUTHORIZED", "message": "a valid token is required"}


def test_bearer_tokens_are_found_in_headers():
    assert bearer_of([(b"Authorization", b"Bearer  abc ")]) == "abc"
    assert bearer_of([(b"authorization", b"Token abc")]) == ""


def test_room_errors_are_507():
    assert status_of(NoRoom(Code.QUOTA).code) == 507
    assert status_of(Refused(Code.NAME_TOO_LONG).code) == 409
