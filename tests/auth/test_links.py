"""Public links: what opens them, how often, and until when."""

import asyncio
import time

import pytest

from cloudverge_auth.links import Asked

pytestmark = pytest.mark.anyio

ABSENT = {"code": "NOT_FOUND", "message": "there is no such link, or no longer"}


@pytest.fixture
async def ann(auth):
    return await auth.sign_up("ann")


async def make(user, **more):
    body = {"space": await user.space(), "ino": 9, "path": "photos/b c.jpg"} | more
    made = await user.do("POST", "/v1/links", **body)
    return made["id"], made["url"].rpartition("/")[2]


async def visit(auth, secret, *, count=False, address="10.0.0.1", **more):
    body = {"secret": secret, "address": address, "count": count} | more
    return await auth.as_server("POST", "/v1/links/open", **body)


async def test_a_link_opens_one_file_for_whoever_has_its_secret(start_auth):
    auth = await start_auth(metaserver_url="https://files.example/")
    ann = await auth.sign_up("ann")
    until = int(time.time()) + 500
    body = {"space": await ann.space(), "ino": 9, "path": "photos/b c.jpg", "until": until}
    made = await ann.do("POST", "/v1/links", **body)
    base, secret = made["url"].rsplit("/", 1)
    assert base == "https://files.example/l"
    assert len(secret) == 43
    opened = await visit(auth, secret)
    assert opened.status_code == 200
    assert opened.json() == {
        "id": made["id"], "space": await ann.space(), "ino": 9, "name": "b c.jpg", "until": until,
    }  # fmt: skip


async def test_what_is_no_link_is_absent(auth, ann):
    _, secret = await make(ann)
    for wrong in ("", "x", secret[:-1], secret + "x", "cvt_" + secret):
        answer = await visit(auth, wrong)
        assert (answer.status_code, answer.json()) == (404, ABSENT)


async def test_links_are_opened_by_servers_only(auth, ann):
    _, secret = await make(ann)
    answer = await ann.ask("POST", "/v1/links/open", secret=secret, address="x", count=False)
    assert answer.status_code == 401
    assert answer.json()["message"] == "a valid token is required"


@pytest.mark.parametrize("how", ["revoked", "over", "deleted", "removed", "disabled"])
async def test_a_link_that_has_ended_opens_nothing_and_is_named_to_servers(auth, ann, how):
    bob = await auth.sign_up("bob")
    space = await ann.team(bob="editor")
    link, secret = await make(bob, space=space, until=int(time.time()) + 1000)
    assert (await visit(auth, secret)).status_code == 200
    assert (await auth.revocations())["links"] == []
    if how == "revoked":
        await ann.do("DELETE", f"/v1/grants/{link}")
    elif how == "over":
        await auth.sql("update grants set until = clock_timestamp()")
    elif how == "deleted":
        await ann.do("DELETE", f"/v1/spaces/{space}")
    elif how == "removed":
        await bob.do("DELETE", f"/v1/spaces/{space}/members/bob")
    else:
        await auth.make_admin(ann)
        await ann.do("PATCH", "/v1/admin/users/bob", disabled=True)
    for count in (False, True):
        answer = await visit(auth, secret, count=count)
        assert (answer.status_code, answer.json()) == (404, ABSENT)
    assert (await auth.revocations())["links"] == [link]


async def test_links_that_ended_long_ago_are_named_no_more(auth, ann):
    link, _ = await make(ann)
    await ann.do("DELETE", f"/v1/grants/{link}")
    await auth.sql("update grants set ended_at = ended_at - interval '181 seconds'")
    assert (await auth.revocations())["links"] == []


async def test_a_link_with_a_password_asks_for_it(auth, ann):
    link, secret = await make(ann, password="opensesame")
    missing = await visit(auth, secret, count=True)
    assert (missing.status_code, missing.json()["message"]) == (403, "this link needs a password")
    wrong = await visit(auth, secret, password="open sesame", count=True)
    assert (wrong.status_code, wrong.json()["message"]) == (403, "the password is wrong")
    assert await auth.sql("select downloads from grants where id = $1", link) == 0
    assert (await visit(auth, secret, password="opensesame", count=True)).status_code == 200
    assert (await auth.sql("select password_hash from grants")).startswith("$argon2id$")


async def test_guessing_a_links_password_is_slowed_down_per_address_and_knowing_it_is_not(auth, ann):
    _, secret = await make(ann, password="opensesame")
    _, other = await make(ann, password="opensesame")
    for _ in range(30):
        assert (await visit(auth, secret, password="opensesame")).status_code == 200
    answers = [await visit(auth, secret, password="wrong") for _ in range(12)]
    assert [answer.status_code for answer in answers] == [403] * 10 + [429] * 2
    assert int(answers[-1].headers["retry-after"]) > 0
    assert (await visit(auth, secret, password="opensesame")).status_code == 429
    assert (await visit(auth, secret, password="opensesame", address="10.0.0.2")).status_code == 200
    assert (await visit(auth, other, password="opensesame")).status_code == 200


async def test_fifty_visitors_at_once_get_no_more_downloads_than_there_are(auth, ann):
    link, secret = await make(ann, max_downloads=7)
    answers = await asyncio.gather(*(visit(auth, secret, count=True) for _ in range(50)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [404] * 43
    assert {answer.content for answer in answers if answer.status_code == 404} == {answers[-1].content}
    assert await auth.sql("select downloads from grants where id = $1", link) == 7
    assert (await visit(auth, secret)).status_code == 404
    (listed,) = await ann.get("/v1/grants")
    assert (listed["downloads"], listed["max_downloads"]) == (7, 7)


async def test_looking_counts_nothing(auth, ann):
    _, secret = await make(ann, max_downloads=1)
    for _ in range(3):
        assert (await visit(auth, secret)).status_code == 200
    assert (await visit(auth, secret, count=True)).status_code == 200
    assert (await visit(auth, secret)).status_code == 404


async def test_readers_make_no_links_and_strangers_see_no_space(auth, ann):
    bob, cat = await auth.sign_up("bob"), await auth.sign_up("cat")
    space = await ann.team(bob="reader")
    body = {"space": space, "ino": 9, "path": "x", "password": "opensesame"}
    assert (await bob.ask("POST", "/v1/links", **body)).status_code == 403
    theirs = await cat.ask("POST", "/v1/links", **body)
    absent = await cat.ask("POST", "/v1/links", **{**body, "space": 4_000_000})
    assert (theirs.status_code, theirs.content) == (404, absent.content)


def test_what_a_visitor_shows_is_in_no_repr():
    assert "s3cret" not in repr(Asked("s3cret", "s3cret", "10.0.0.1", True))
