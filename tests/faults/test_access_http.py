"""No HTTP route but the public ones answers a caller without a valid token, whatever else the request holds.

Each route of each server has a row here. A route without a row fails ``test_every_route_has_a_row``: whoever adds
one decides, here, whether strangers may call it.
"""

import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Route

from cloudverge_auth import app as auth_app
from cloudverge_auth.keys import SigningKey
from cloudverge_auth.tokens import Access, Identity, ServerTicket, sign_access, sign_identity, sign_server
from cloudverge_chunkserver import app as chunkserver_app
from cloudverge_metaserver import routes as metaserver_routes
from tests.fixtures.accounts import ABSENT, Person, sign_up
from tests.fixtures.cluster import Cluster
from tests.fixtures.forgeries import forge

RequestTo = Callable[..., httpx.Response]

PUBLIC = "strangers may call it"
ACCESS = "takes an access token"
IDENTITY = "takes an identity ticket"
JOIN = "takes the join token"
ADMIN = "takes an administrator's access token"
JOIN_AUTH = "takes the join token, at auth"

ROWS = {
    "auth": {
        ("GET", "/healthz"): PUBLIC,
        ("GET", "/v1/keys"): PUBLIC,
        ("POST", "/v1/signup"): PUBLIC,
        ("POST", "/v1/login"): PUBLIC,
        ("POST", "/v1/refresh"): PUBLIC,
        ("GET", "/v1/ca"): PUBLIC,
        ("POST", "/v1/machine"): PUBLIC,
        ("POST", "/v1/enrol"): PUBLIC,
        ("GET", "/docs"): PUBLIC,
        ("GET", "/openapi.json"): PUBLIC,
        ("POST", "/v1/logout"): ACCESS,
        ("GET", "/v1/whoami"): ACCESS,
        ("GET", "/v1/devices"): ACCESS,
        ("DELETE", "/v1/devices/{device}"): ACCESS,
        ("POST", "/v1/password"): ACCESS,
        ("POST", "/v1/claim"): ACCESS,
        ("GET", "/v1/spaces"): ACCESS,
        ("POST", "/v1/spaces"): ACCESS,
        ("DELETE", "/v1/spaces/{space}"): ACCESS,
        ("GET", "/v1/spaces/{space}/members"): ACCESS,
        ("POST", "/v1/spaces/{space}/members"): ACCESS,
        ("PATCH", "/v1/spaces/{space}/members/{user}"): ACCESS,
        ("DELETE", "/v1/spaces/{space}/members/{user}"): ACCESS,
        ("GET", "/v1/spaces/{space}/log"): ACCESS,
        ("POST", "/v1/tickets"): ACCESS,
        ("POST", "/v1/grants"): ACCESS,
        ("GET", "/v1/grants"): ACCESS,
        ("DELETE", "/v1/grants/{grant}"): ACCESS,
        ("POST", "/v1/links"): ACCESS,
        ("GET", "/v1/admin/users"): ADMIN,
        ("PATCH", "/v1/admin/users/{user}"): ADMIN,
        ("PATCH", "/v1/admin/spaces/{space}"): ADMIN,
        ("GET", "/v1/admin/log"): ADMIN,
        ("POST", "/v1/admin/invites"): ADMIN,
        ("GET", "/v1/admin/invites"): ADMIN,
        ("DELETE", "/v1/admin/invites/{invite}"): ADMIN,
        ("POST", "/v1/admin/keys"): ADMIN,
        ("GET", "/v1/admin/policy"): ADMIN,
        ("PUT", "/v1/admin/policy"): ADMIN,
        ("GET", "/v1/revocations"): JOIN_AUTH,
        ("POST", "/v1/spaces/{space}/purged"): JOIN_AUTH,
        ("POST", "/v1/links/open"): JOIN_AUTH,
        ("POST", "/v1/nodes"): JOIN_AUTH,
    },
    "metaserver-1": {
        ("GET", "/healthz"): PUBLIC,
        ("GET", "/v1/keys"): PUBLIC,
        ("GET", "/docs"): PUBLIC,
        ("GET", "/openapi.json"): PUBLIC,
        ("GET", "/l/{secret:path}"): PUBLIC,
        ("POST", "/l/{secret:path}"): PUBLIC,
        ("GET", "/l/{secret}/file"): PUBLIC,
        ("POST", "/v1/servers/register"): JOIN,
        ("POST", "/v1/servers/{server}/heartbeat"): JOIN,
        ("GET", "/v1/servers"): IDENTITY,
        ("GET", "/v1/status"): IDENTITY,
        ("GET", "/v1/path"): IDENTITY,
        ("GET", "/v1/log"): IDENTITY,
        ("GET", "/metrics"): IDENTITY,
    },
    "chunkserver-1": {
        ("GET", "/healthz"): PUBLIC,
        ("GET", "/docs"): PUBLIC,
        ("GET", "/openapi.json"): PUBLIC,
        ("GET", "/metrics"): JOIN,
        ("GET", "/v1/status"): JOIN,
    },
}
CLOSED = [
    (server, method, path)
    for server, rows in ROWS.items()
    for (method, path), kind in rows.items()
    if kind is not PUBLIC
]
UNAUTHORIZED = {"code": "UNAUTHORIZED", "message": "a valid token is required"}
BODIES: dict[str, tuple[bytes, str]] = {
    "no body": (b"", ""),
    "an empty object": (b"{}", "application/json"),
    "half an object": (b'{"space": ', "application/json"),
    "not JSON": (b"\x00\xff\xfe" * 100, "application/json"),
    "a form": (b"a=1&b=2", "application/x-www-form-urlencoded"),
    "deep nesting": (b"[" * 50_000, "application/json"),
    "two megabytes": (b'"' + b"x" * (2 << 20) + b'"', "application/json"),
}


def _innermost(app: Any) -> FastAPI:
    """The application behind gate and limits."""
    while not isinstance(app, FastAPI):
        app = app._app
    return app


def _apps() -> dict[str, FastAPI]:
    nothing: Any = SimpleNamespace(keys=None, join_token="", database=None)
    people: Any = SimpleNamespace(gateway=None, paths=None, log=None)
    return {
        "auth": _innermost(auth_app.make_app(nothing)),
        "metaserver-1": _innermost(metaserver_routes.make_app(nothing, people)),
        "chunkserver-1": _innermost(chunkserver_app.make_app(dict, dict)),
    }


def _routes(router: Any) -> Iterator[tuple[str, str]]:
    """Every (method, path) of an application, of routers included in it, and of what they include."""
    for route in router.routes:
        if isinstance(route, APIRoute | Route):
            yield from ((method, route.path) for method in (route.methods or ()) if method != "HEAD")
        else:
            yield from _routes(route.original_router)  # fails for kinds of routes that nobody has thought of


@pytest.mark.parametrize("server", ROWS)
def test_every_route_has_a_row(server):
    assert set(_routes(_apps()[server])) == set(ROWS[server])


@pytest.fixture(scope="module")
def ann(lasting_cluster: Cluster) -> Person:
    return sign_up(lasting_cluster, "ann")


@pytest.fixture(scope="module")
def bob(lasting_cluster: Cluster) -> Person:
    return sign_up(lasting_cluster, "bob")


@pytest.fixture(scope="module")
def bad_tokens(lasting_cluster: Cluster, ann: Person) -> dict[str, dict[str, str]]:
    """For each kind of route, tokens that must not open it."""
    cluster_id = lasting_cluster.report["cluster"]
    (row,) = lasting_cluster.sql("select private from auth.signing_keys")
    key = SigningKey.from_bytes(row["private"])
    (row,) = lasting_cluster.sql("select private from meta.signing_keys")
    meta_key = SigningKey.from_bytes(row["private"])
    access = Access(str(ann.ids.user), ann.ids.device)
    identity = Identity(str(ann.ids.user), ann.name, ann.ids.device, "laptop", 1, "owner", 1)
    server = ServerTicket("metaserver")
    join = {
        "an identity ticket": ann.identity(),
        "an access token": ann.access_token,
        "a server ticket": sign_server(meta_key, cluster_id, server, 0),
        "half the join token": _join_token(lasting_cluster)[:-1],
        "more than the join token": _join_token(lasting_cluster) + "0",
    }
    join_token = {"the join token": _join_token(lasting_cluster)}
    access_forged = forge(sign_access, key, cluster_id, access, (sign_identity, identity)) | join_token
    return {
        ACCESS: access_forged,
        ADMIN: access_forged,
        JOIN_AUTH: forge(sign_server, key, cluster_id, server, (sign_access, access)) | join,
        IDENTITY: forge(sign_identity, key, cluster_id, identity, (sign_access, access)),
        JOIN: forge(sign_server, meta_key, cluster_id, server, (sign_access, access)) | join,
    }


def _join_token(cluster: Cluster) -> str:
    return (cluster.home / "secrets" / "join-token").read_text().strip()


@pytest.fixture(scope="module")
def request_to(lasting_cluster: Cluster) -> Iterator[RequestTo]:
    """Sends a request to a server by its name; one connection to each."""
    with httpx.Client(timeout=20) as client:

        def send(
            server: str, method: str, path: str, headers: Any = (), body: tuple[bytes, str] = (b"", "")
        ) -> httpx.Response:
            base = lasting_cluster.server(server)["url"]
            content, kind = body
            kinds = [(b"content-type", kind.encode())] if kind else []
            path = re.sub(r"{\w+}", "1", path)
            return client.request(method, base + path, content=content, headers=[*headers, *kinds])

        yield send


def _bearing(token: str, scheme: str = "Bearer") -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"{scheme} {token}".strip().encode())]


def _assert_is_the_one_refusal(response: httpx.Response) -> None:
    assert (response.status_code, response.json()) == (401, UNAUTHORIZED)
    assert response.headers["www-authenticate"] == "Bearer"
    assert set(response.headers) <= {"content-type", "content-length", "www-authenticate", "date", "server"}


@pytest.mark.parametrize(("server", "method", "path"), CLOSED)
def test_a_route_answers_nobody_without_a_token_whatever_the_body(request_to, server, method, path):
    for body in BODIES.values():
        _assert_is_the_one_refusal(request_to(server, method, path, (), body))


@pytest.mark.parametrize(("server", "method", "path"), CLOSED)
def test_a_route_answers_nobody_with_a_bad_token(request_to, bad_tokens, server, method, path):
    kind = ROWS[server][method, path]
    for wrong, token in bad_tokens[kind].items():
        for body in (BODIES["no body"], BODIES["half an object"]):
            response = request_to(server, method, path, _bearing(token), body)
            assert response.status_code == 401, (wrong, response.text)
            _assert_is_the_one_refusal(response)


@pytest.mark.parametrize("scheme", ["Basic", "bearer bearer", "Token", ""])
def test_a_good_token_under_another_scheme_is_no_token(request_to, ann, scheme):
    headers = _bearing(ann.access_token, scheme)
    _assert_is_the_one_refusal(request_to("auth", "GET", "/v1/whoami", headers))


def test_two_tokens_are_no_token(request_to, ann):
    headers = _bearing(ann.access_token) * 2
    _assert_is_the_one_refusal(request_to("auth", "GET", "/v1/whoami", headers))


@pytest.mark.parametrize("server", ROWS)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/v1/nothing"), ("PUT", "/v1/nothing"), ("GET", "//healthz")]
)
def test_a_stranger_cannot_tell_which_routes_exist(request_to, server, method, path):
    _assert_is_the_one_refusal(request_to(server, method, path))


def test_public_routes_answer_strangers(request_to):
    for server in ROWS:
        assert request_to(server, "GET", "/healthz").status_code == 200
        assert request_to(server, "GET", "/openapi.json").status_code == 200
        assert "text/html" in request_to(server, "GET", "/docs").headers["content-type"]
    for server in ("auth", "metaserver-1"):
        assert request_to(server, "GET", "/v1/keys").status_code == 200


@pytest.mark.parametrize("path", ["/l/", "/l/nothing", "/l/%2e%2e/v1/status", "/l/x/file"])
def test_a_link_that_opens_nothing_gets_one_page_and_no_hint(request_to, path):
    answer = request_to("metaserver-1", "GET", path)
    absent = request_to("metaserver-1", "GET", "/l/short")
    assert answer.status_code == 404
    assert _seen(answer) == _seen(absent)


def test_good_tokens_open_what_they_are_for(cluster, request_to, ann):
    for server, path, token in (
        ("auth", "/v1/whoami", ann.access_token),
        ("metaserver-1", "/v1/status", ann.identity()),
        ("chunkserver-1", "/v1/status", _join_token(cluster)),
    ):
        response = request_to(server, "GET", path, _bearing(token))
        assert response.status_code == 200, (server, path, response.text)


def test_an_administrators_route_tells_others_that_it_is_not_for_them(request_to, ann):
    for (method, path), kind in ROWS["auth"].items():
        if kind is ADMIN:
            for body in BODIES.values():
                response = request_to("auth", method, path, _bearing(ann.access_token), body)
                assert (response.status_code, response.json()) == (
                    403,
                    {"code": "FORBIDDEN", "message": "this is for administrators"},
                )


def _seen(response: httpx.Response) -> tuple[int, bytes, set[str]]:
    return response.status_code, response.content, set(response.headers)


def test_the_device_of_another_user_looks_like_one_that_does_not_exist(request_to, ann, bob):
    theirs, absent = (
        request_to("auth", "DELETE", f"/v1/devices/{device}", _bearing(bob.access_token))
        for device in (ann.ids.device, ABSENT.device)
    )
    assert theirs.status_code >= 400
    assert _seen(theirs) == _seen(absent)
    assert ann.post("/v1/tickets", {"space": ""}).status_code == 200


def test_the_space_of_another_user_looks_like_one_that_does_not_exist(ann, bob):
    space = ann.post("/v1/tickets", {"space": ""}).json()["space"]
    for their_name, no_name in ((space, ABSENT.space), (ann.name, "nobody-of-that-name")):
        theirs, absent = (bob.post("/v1/tickets", {"space": name}) for name in (their_name, no_name))
        assert theirs.status_code >= 400
        assert _seen(theirs) == _seen(absent)


def test_a_valid_token_with_a_malformed_body_gets_a_clear_error_and_not_its_body_back(request_to, ann):
    for what, body in BODIES.items():
        response = request_to("auth", "POST", "/v1/tickets", _bearing(ann.access_token), body)
        if what == "an empty object":
            assert response.status_code == 200
        else:
            assert 400 <= response.status_code < 500, what
            assert set(response.json()) == {"code", "message"}
            assert len(response.content) < 300
