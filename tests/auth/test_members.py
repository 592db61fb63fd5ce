"""Team spaces and their members: who may do what, and that every space keeps an owner."""

import asyncio

import pytest

from cloudverge_auth.members import takes_away

pytestmark = pytest.mark.anyio


@pytest.fixture
async def people(auth):
    return {name: await auth.sign_up(name) for name in ("ann", "bob", "cat", "dan")}


async def roles(user, space):
    return {each["user"]: each["role"] for each in await user.get(f"/v1/spaces/{space}/members")}


async def test_a_team_space_belongs_to_who_made_it(start_auth):
    auth = await start_auth(quota_bytes=500, quota_inodes=6)
    ann = await auth.sign_up("ann")
    made = await ann.do("POST", "/v1/spaces", name="Our photos")
    assert made == {
        "id": made["id"], "name": "Our photos", "role": "owner", "kind": "team", "owner": "ann",
        "quota_bytes": 500, "quota_inodes": 6,
    }  # fmt: skip
    personal, team = await ann.get("/v1/spaces")
    assert (personal["kind"], personal["owner"]) == ("personal", "ann")
    assert team == made
    claims = await auth.claims(ann, space="Our photos")
    assert (claims.space, claims.role, claims.owner, claims.quota_bytes) == (made["id"], "owner", ann.id, 500)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".", "x" * 65, "a\nb", None, 5])
async def test_what_names_no_space_makes_none(auth, name):
    ann = await auth.sign_up("ann")
    assert (await ann.ask("POST", "/v1/spaces", name=name)).status_code == 400


async def test_an_owner_has_no_two_spaces_of_one_name_even_made_at_once(auth):
    ann = await auth.sign_up("ann")
    answers = await asyncio.gather(*(ann.ask("POST", "/v1/spaces", name="crew") for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 5
    assert (await ann.ask("POST", "/v1/spaces", name="ann")).status_code == 409
    bob = await auth.sign_up("bob")
    assert (await bob.ask("POST", "/v1/spaces", name="crew")).status_code == 201


async def test_members_come_and_see_each_other(auth, people):
    space = await people["ann"].team(bob="editor", cat="reader")
    for name, role in (("ann", "owner"), ("bob", "editor"), ("cat", "reader")):
        assert await roles(people[name], space) == {"ann": "owner", "bob": "editor", "cat": "reader"}
        assert (await auth.claims(people[name], space="crew")).role == role
    answer = await people["ann"].ask("POST", f"/v1/spaces/{space}/members", user="bob", role="reader")
    assert (answer.status_code, answer.json()["code"]) == (409, "EXISTS")


async def test_owners_alone_change_members_and_all_may_leave(auth, people):
    space = await people["ann"].team(bob="editor", cat="reader")
    for name in ("bob", "cat"):
        for method, path, body in (
            ("POST", "members", {"user": "dan", "role": "reader"}),
            ("PATCH", "members/cat", {"role": "owner"}),
            ("DELETE", "members/ann", {}),
            ("DELETE", "", {}),
        ):
            answer = await people[name].ask(method, f"/v1/spaces/{space}/{path}".rstrip("/"), **body)
            assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN"), (name, method)
        await people[name].do("DELETE", f"/v1/spaces/{space}/members/{name}")
        assert (await people[name].ask("POST", "/v1/tickets", space=space)).status_code == 404
    assert await roles(people["ann"], space) == {"ann": "owner"}


async def test_a_role_that_was_changed_is_in_the_next_ticket(auth, people):
    space = await people["ann"].team(bob="reader")
    changed = await people["ann"].do("PATCH", f"/v1/spaces/{space}/members/bob", role="editor")
    assert (changed["user"], changed["role"]) == ("bob", "editor")
    claims = await auth.claims(people["bob"], space=space)
    assert (claims.role, claims.may_write) == ("editor", True)
    await people["ann"].do("PATCH", f"/v1/spaces/{space}/members/bob", role="reader")
    assert not (await auth.claims(people["bob"], space=space)).may_write


async def test_the_last_owner_neither_leaves_nor_is_lowered(auth, people):
    ann, bob = people["ann"], people["bob"]
    space = await ann.team(bob="editor")
    for method, body in (("DELETE", {}), ("PATCH", {"role": "editor"}), ("PATCH", {"role": "reader"})):
        answer = await ann.ask(method, f"/v1/spaces/{space}/members/ann", **body)
        assert (answer.status_code, answer.json()["code"]) == (409, "NOT_PERMITTED")
        assert "last owner" in answer.json()["message"]
    await ann.do("PATCH", f"/v1/spaces/{space}/members/bob", role="owner")
    await ann.do("DELETE", f"/v1/spaces/{space}/members/ann")
    assert await roles(bob, space) == {"bob": "owner"}
    assert (await bob.ask("DELETE", f"/v1/spaces/{space}/members/bob")).status_code == 409


async def test_of_two_owners_who_leave_at_once_one_stays(auth, people):
    for round_ in range(5):
        space = await people["ann"].team(f"crew {round_}", bob="owner")
        answers = await asyncio.gather(
            *(people[name].ask("DELETE", f"/v1/spaces/{space}/members/{name}") for name in ("ann", "bob"))
        )
        assert sorted(answer.status_code for answer in answers) == [200, 409]


async def test_a_disabled_owner_does_not_count_as_the_one_who_stays(auth, people):
    space = await people["ann"].team(bob="owner")
    await auth.sql("update users set disabled_at = now() where name = 'bob'")
    assert (await people["ann"].ask("DELETE", f"/v1/spaces/{space}/members/ann")).status_code == 409


async def test_a_space_counts_for_another_owner_when_its_own_leaves(auth, people):
    space = await people["ann"].team(bob="owner", cat="owner")
    await auth.sql("update users set quota_bytes = id * 1000, quota_inodes = id * 10")
    assert (await auth.claims(people["cat"], space=space)).owner == people["ann"].id
    await people["ann"].do("PATCH", f"/v1/spaces/{space}/members/ann", role="reader")
    claims = await auth.claims(people["cat"], space=space)
    bob = people["bob"].id
    assert (claims.owner, claims.owner_quota_bytes, claims.owner_quota_inodes) == (bob, bob * 1000, bob * 10)


async def test_a_personal_space_has_guests_but_one_owner_for_ever(auth, people):
    ann = people["ann"]
    space = await ann.space()
    await ann.do("POST", f"/v1/spaces/{space}/members", user="bob", role="editor")
    for method, path, body in (
        ("POST", "members", {"user": "cat", "role": "owner"}),
        ("PATCH", "members/bob", {"role": "owner"}),
        ("DELETE", "members/ann", {}),
    ):
        answer = await ann.ask(method, f"/v1/spaces/{space}/{path}", **body)
        assert (answer.status_code, answer.json()["code"]) == (409, "NOT_PERMITTED")
    assert (await ann.ask("DELETE", f"/v1/spaces/{space}")).status_code == 409


async def test_a_deleted_space_is_nobodys_and_is_named_until_it_is_purged(auth, people):
    ann = people["ann"]
    space = await ann.team(bob="editor")
    assert (await auth.as_server("POST", f"/v1/spaces/{space}/purged")).status_code == 404
    await ann.do("DELETE", f"/v1/spaces/{space}")
    for name in ("ann", "bob"):
        assert (await people[name].ask("POST", "/v1/tickets", space=space)).status_code == 404
        assert (await people[name].ask("GET", f"/v1/spaces/{space}/members")).status_code == 404
        assert [each["name"] for each in await people[name].get("/v1/spaces")] == [name]
    assert (await auth.revocations())["deleted"] == [space]
    for _ in range(2):
        assert (await auth.as_server("POST", f"/v1/spaces/{space}/purged")).status_code == 200
        assert (await auth.revocations())["deleted"] == []
    await ann.team("crew")  # the name is free again


async def test_a_space_of_others_is_like_one_that_does_not_exist(auth, people):
    space = await people["ann"].team(bob="editor")
    for method, path, body in (
        ("DELETE", "", {}),
        ("GET", "/members", {}),
        ("POST", "/members", {"user": "bob", "role": "reader"}),
        ("POST", "/members", {"user": "nobody", "role": "reader"}),
        ("PATCH", "/members/bob", {"role": "reader"}),
        ("DELETE", "/members/bob", {}),
        ("DELETE", "/members/dan", {}),
        ("GET", "/log", {}),
    ):
        theirs, absent = [
            await people["dan"].ask(method, f"/v1/spaces/{number}{path}", **body)
            for number in (space, 4_000_000)
        ]
        assert theirs.status_code == 404
        assert (theirs.content, theirs.headers) == (absent.content, absent.headers), (method, path)


async def test_a_member_who_is_none_is_absent_whether_there_is_such_a_user_or_not(auth, people):
    space = await people["ann"].team()
    answers = [
        await people["ann"].ask(method, f"/v1/spaces/{space}/members/{name}", **body)
        for method, body in (("PATCH", {"role": "reader"}), ("DELETE", {}))
        for name in ("bob", "nobody")
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1


async def test_names_of_users_may_be_tried_only_so_often_and_hits_cost_nothing(auth, people):
    ann = people["ann"]
    space = await ann.team()
    for _ in range(40):
        await ann.do("POST", f"/v1/spaces/{space}/members", user="bob", role="reader")
        await ann.do("DELETE", f"/v1/spaces/{space}/members/bob")
    answers = [
        await ann.ask("POST", f"/v1/spaces/{space}/members", user=f"guess{n}", role="reader")
        for n in range(31)
    ]
    assert answers[0].json() == {"code": "NOT_FOUND", "message": "there is no user of that name"}
    assert [answer.status_code for answer in answers] == [404] * 30 + [429]
    assert int(answers[-1].headers["retry-after"]) > 0
    grant = {"space": space, "root": 1, "path": "x", "to": "bob"}
    assert (await ann.ask("POST", "/v1/grants", **grant)).status_code == 429
    assert (await people["bob"].ask("POST", "/v1/spaces", name="crew")).status_code == 201


def test_what_takes_a_right_away():
    lowered = {("owner", "editor"), ("owner", "reader"), ("editor", "reader")}
    every = {(one, two) for one in ("owner", "editor", "reader") for two in ("owner", "editor", "reader")}
    assert {pair for pair in every if takes_away(*pair)} == lowered
