"""Grants and machine tokens: who may give what, what their tickets say, and that nobody else gets any."""

import time

import pytest

from cloudverge_auth import tickets
from cloudverge_auth.signins import Caller

pytestmark = pytest.mark.anyio

ROOT = 4711
FIXED = {"code": "UNAUTHORIZED", "message": "a valid token is required"}


@pytest.fixture
async def people(auth):
    return {name: await auth.sign_up(name) for name in ("ann", "bob", "cat", "dan")}


async def give(user, space, **more):
    body = {"space": space, "root": ROOT, "path": "photos/2026"} | more
    return await user.do("POST", "/v1/grants", **body)


async def machine(auth, token):
    return await auth.post("/v1/machine", token=token)


async def test_a_grantee_gets_a_ticket_for_that_folder_and_no_more(auth, people):
    await auth.sql("update users set quota_bytes = 77, quota_inodes = 8 where name = 'ann'")
    space = await people["ann"].team()
    for rw, role in ((False, "reader"), (True, "editor")):
        made = await give(people["ann"], space, to="bob", rw=rw)
        assert made["token"] is None
        ticket = await people["bob"].do("POST", "/v1/tickets", grant=made["id"])
        claims = auth.read(ticket)
        assert (claims.user, claims.name, claims.device) == (people["bob"].id, "bob", people["bob"].device)
        assert (claims.space, claims.grant, claims.root, claims.role) == (space, made["id"], ROOT, role)
        assert (claims.owner, claims.owner_quota_bytes, claims.owner_quota_inodes) == (
            people["ann"].id,
            77,
            8,
        )
        assert (claims.is_confined, claims.until) == (True, 0)
        assert {name: ticket[name] for name in ("space", "role", "grant", "root", "label")} == {
            "space": space, "role": role, "grant": made["id"], "root": ROOT,
            "label": "photos/2026 of ann's crew",
        }  # fmt: skip
    assert (await people["bob"].ask("POST", "/v1/tickets", space=space)).status_code == 404
    assert len(await people["bob"].get("/v1/spaces")) == 1


async def test_a_grant_is_good_for_its_grantee_alone_and_absent_for_all_others(auth, people):
    space = await people["ann"].team(cat="editor")
    grant = (await give(people["ann"], space, to="bob"))["id"]
    token = (await give(people["ann"], space, label="camera"))["id"]
    answers = [
        await people[name].ask("POST", "/v1/tickets", grant=number)
        for name, number in (
            ("ann", grant),
            ("cat", grant),
            ("dan", grant),
            ("bob", token),
            ("dan", 4_000_000),
        )
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({(answer.content, tuple(answer.headers.items())) for answer in answers}) == 1


async def test_owners_and_editors_give_and_nobody_else(auth, people):
    space = await people["ann"].team(bob="editor", cat="reader")
    await give(people["bob"], space, to="dan", rw=True)
    for body in ({"to": "dan"}, {"label": "camera"}, {"to": "dan", "rw": True}, {"to": "nobody"}):
        body = {"space": space, "root": ROOT, "path": "x"} | body
        answer = await people["cat"].ask("POST", "/v1/grants", **body)
        assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
        theirs, absent = [
            await people["dan"].ask("POST", "/v1/grants", **{**body, "space": number})
            for number in (space, 4_000_000)
        ]
        assert theirs.status_code == 404
        assert theirs.content == absent.content


@pytest.mark.parametrize(
    "change",
    [
        {"to": "ann"}, {"to": None}, {"label": "x", "to": "bob"}, {"to": None, "label": ""},
        {"root": 0}, {"root": 2**63}, {"path": "a\nb"},
        {"path": "x" * 4097}, {"until": 5}, {"until": -1}, {"until": 10**18}, {"until": "soon"},
        {"rw": "maybe"}, {"space": "crew"}, {"admin": True},
    ],
    ids=str,
)  # fmt: skip
async def test_what_is_no_grant_is_refused(auth, people, change):
    space = await people["ann"].team()
    body = {"space": space, "root": ROOT, "path": "x", "to": "bob", "until": None} | change
    assert (await people["ann"].ask("POST", "/v1/grants", **body)).status_code == 400
    assert await auth.sql("select count(*) from grants") == 0


async def test_a_grant_ends_with_its_time(auth, people):
    space, until = await people["ann"].team(), int(time.time()) + 30
    grant = (await give(people["ann"], space, to="bob", until=until))["id"]
    token = (await give(people["ann"], space, label="camera", until=until))["token"]
    for claims in (
        await auth.claims(people["bob"], grant=grant),
        auth.read((await machine(auth, token)).json()),
    ):
        assert (claims.until, claims.exp) == (until, until)
    await auth.sql("update grants set until = clock_timestamp()")
    assert (await people["bob"].ask("POST", "/v1/tickets", grant=grant)).status_code == 404
    assert (await machine(auth, token)).json() == FIXED
    assert await people["ann"].get("/v1/grants") == []
    assert await people["bob"].get("/v1/grants") == []


async def test_a_machines_token_gives_tickets_and_nothing_else(auth, people):
    ann = people["ann"]
    space = await ann.team()
    made = await give(ann, space, label="camera", rw=True)
    token = made["token"]
    assert token.startswith("cvt_")
    assert len(token) == 4 + 43
    answer = await machine(auth, token)
    assert answer.status_code == 200
    claims = auth.read(answer.json())
    assert (claims.user, claims.name, claims.device) == (ann.id, "ann (token: camera)", 0)
    assert (claims.space, claims.grant, claims.root, claims.role) == (space, made["id"], ROOT, "editor")
    for path in ("/v1/whoami", "/v1/spaces", "/v1/grants", "/v1/revocations"):
        headers = {"authorization": f"Bearer {token}"}
        refused = await auth.http.get(path, headers=headers)
        assert (refused.status_code, refused.json()) == (401, FIXED)


async def test_what_is_no_machines_token_gets_the_one_refusal(auth, people):
    space = await people["ann"].team()
    token = (await give(people["ann"], space, label="camera"))["token"]
    link = (await people["ann"].do("POST", "/v1/links", space=space, ino=5, path="x"))["url"].rpartition("/")[
        2
    ]
    for wrong in (
        "",
        "cvt_",
        token[:-1],
        token + "x",
        token[4:],
        link,
        "cvt_" + link,
        people["ann"].access[:128],
    ):
        answer = await machine(auth, wrong)
        assert (answer.status_code, answer.json()) == (401, FIXED)


async def test_tokens_are_stored_as_hashes_only(auth, people):
    space = await people["ann"].team()
    token = (await give(people["ann"], space, label="camera"))["token"]
    for table in ("grants", "audit"):
        dump = await auth.sql(f"select string_agg(t::text, ' ') from {table} t")
        assert token[4:] not in dump
        assert token.encode().hex() not in dump


async def test_grants_are_listed_for_giver_owner_and_grantee(auth, people):
    space = await people["ann"].team(bob="editor")
    until = int(time.time()) + 1000
    grant = (await give(people["bob"], space, to="cat", until=until))["id"]
    token = (await give(people["ann"], space, label="camera", rw=True))["id"]
    link = (await people["bob"].do("POST", "/v1/links", space=space, ino=9, path="a/b.jpg", max_downloads=3))[
        "id"
    ]
    listed = {name: await user.get("/v1/grants") for name, user in people.items()}
    assert [each["id"] for each in listed["ann"]] == [link, token, grant]
    assert [each["id"] for each in listed["bob"]] == [link, grant]
    assert [(each["id"], each["direction"]) for each in listed["cat"]] == [(grant, "received")]
    assert listed["dan"] == []
    one = listed["ann"][2]
    assert one == {
        "id": grant, "kind": "user", "direction": "given", "space": space, "space_name": "crew", "root": ROOT,
        "path": "photos/2026", "rw": False, "to": "cat", "by": "bob", "label": "", "until": until,
        "created_at": one["created_at"], "downloads": 0, "max_downloads": 0,
    }  # fmt: skip
    assert (listed["ann"][1]["kind"], listed["ann"][1]["label"], listed["ann"][1]["rw"]) == (
        "token",
        "camera",
        True,
    )
    assert (listed["ann"][0]["kind"], listed["ann"][0]["max_downloads"]) == ("link", 3)


async def test_who_gave_it_and_owners_take_it_back_and_for_others_it_is_absent(auth, people):
    space = await people["ann"].team(bob="editor", dan="editor")
    for taker in ("ann", "bob"):
        made = [
            (await give(people["bob"], space, to="cat"))["id"],
            (await give(people["bob"], space, label="camera"))["id"],
            (await people["bob"].do("POST", "/v1/links", space=space, ino=9, path="x"))["id"],
        ]
        for number in made:
            for other in ("cat", "dan"):
                theirs, absent = [
                    await people[other].ask("DELETE", f"/v1/grants/{each}") for each in (number, 4_000_000)
                ]
                assert theirs.status_code == 404
                assert theirs.content == absent.content
            await people[taker].do("DELETE", f"/v1/grants/{number}")
            again = await people[taker].ask("DELETE", f"/v1/grants/{number}")
            assert (again.status_code, again.content) == (404, absent.content)
    assert await people["ann"].get("/v1/grants") == []


@pytest.mark.parametrize("how", ["remove", "lower"])
async def test_all_that_a_member_gave_ends_with_his_right_to_give(auth, people, how):
    space = await people["ann"].team(bob="editor")
    grant = (await give(people["bob"], space, to="cat"))["id"]
    token = (await give(people["bob"], space, label="camera"))["token"]
    kept = (await give(people["ann"], space, to="cat"))["id"]
    elsewhere = (await give(people["bob"], await people["bob"].space(), to="cat"))["id"]
    if how == "remove":
        await people["ann"].do("DELETE", f"/v1/spaces/{space}/members/bob")
    else:
        await people["ann"].do("PATCH", f"/v1/spaces/{space}/members/bob", role="reader")
    assert (await people["cat"].ask("POST", "/v1/tickets", grant=grant)).status_code == 404
    assert (await machine(auth, token)).status_code == 401
    assert {each["id"] for each in await people["cat"].get("/v1/grants")} == {kept, elsewhere}
    if how == "remove":
        await people["ann"].do("POST", f"/v1/spaces/{space}/members", user="bob", role="editor")
    else:
        await people["ann"].do("PATCH", f"/v1/spaces/{space}/members/bob", role="editor")
    assert (await people["cat"].ask("POST", "/v1/tickets", grant=grant)).status_code == 404


async def test_a_lowered_owner_who_may_still_give_keeps_what_he_gave(auth, people):
    space = await people["ann"].team(bob="owner")
    grant = (await give(people["bob"], space, to="cat"))["id"]
    await people["ann"].do("PATCH", f"/v1/spaces/{space}/members/bob", role="editor")
    assert (await auth.claims(people["cat"], grant=grant)).grant == grant


async def test_what_a_disabled_user_gave_rests_until_he_is_enabled(auth, people):
    await auth.make_admin(people["dan"])
    space = await people["ann"].team(bob="editor")
    grant = (await give(people["bob"], space, to="cat"))["id"]
    token = (await give(people["bob"], space, label="camera"))["token"]
    await people["dan"].do("PATCH", "/v1/admin/users/bob", disabled=True)
    assert (await people["cat"].ask("POST", "/v1/tickets", grant=grant)).status_code == 404
    assert (await machine(auth, token)).json() == FIXED
    await people["dan"].do("PATCH", "/v1/admin/users/bob", disabled=False)
    assert (await auth.claims(people["cat"], grant=grant)).grant == grant
    assert (await machine(auth, token)).status_code == 200


async def test_a_sign_in_that_has_ended_gets_no_ticket_though_the_gate_let_it_in_before(auth, people):
    ann, bob = people["ann"], people["bob"]
    grant = (await give(ann, await ann.space(), to="bob"))["id"]
    family = await auth.sql("select max(id) from families f where device_id = $1", bob.device)
    caller = Caller(bob.id, "bob", bob.device, "laptop", family, False)
    pool = auth.services.pool
    assert (await tickets.for_grantee(pool, caller, grant)).identity.grant == grant
    assert (await tickets.for_member(pool, caller, "")).identity.role == "owner"
    await bob.do("DELETE", f"/v1/devices/{bob.device}")
    for late in (tickets.for_grantee(pool, caller, grant), tickets.for_member(pool, caller, "")):
        with pytest.raises(Exception, match="you have no such"):
            await late


async def test_tickets_tell_where_the_metaserver_is(start_auth):
    auth = await start_auth(metaserver="10.0.0.1:7001", metaserver_url="https://files.example/")
    ann = await auth.sign_up("ann")
    ticket = await ann.do("POST", "/v1/tickets", space="")
    assert (ticket["metaserver"], ticket["metaserver_url"]) == ("10.0.0.1:7001", "https://files.example")
    assert (ticket["label"], ticket["grant"], ticket["root"]) == ("ann", 0, 1)
