"""Whatever takes a right away raises the space's epoch in the same transaction, and servers are told."""

import asyncio
import random

import pytest

from cloudverge_auth import epochs

pytestmark = pytest.mark.anyio


@pytest.fixture
async def scene(auth):
    """ann owns a team with bob (editor, who gave cat a grant, a token and a link) and dan (reader); eve is admin.

    fay has nothing to do with it.
    """
    people = {name: await auth.sign_up(name) for name in ("ann", "bob", "cat", "dan", "eve", "fay")}
    await auth.make_admin(people["eve"])
    team = await people["ann"].team(bob="editor", dan="reader")
    body = {"space": team, "root": 5, "path": "x"}
    ids = {
        "grant": (await people["bob"].do("POST", "/v1/grants", **body, to="cat"))["id"],
        "token": (await people["bob"].do("POST", "/v1/grants", **body, label="camera"))["id"],
        "link": (await people["bob"].do("POST", "/v1/links", space=team, ino=5, path="x"))["id"],
    }
    spaces = {name: await user.space() for name, user in people.items()} | {"team": team}
    return people, spaces, ids


PASSWORDS = {"old": "correct horse battery", "new": "battery staple correct"}

# who does what, and whose spaces' tickets are outdated by it
ENDINGS = {
    "a role is lowered": ("ann", "PATCH", "/v1/spaces/{team}/members/bob", {"role": "reader"}, {"team"}),
    "a member is removed": ("ann", "DELETE", "/v1/spaces/{team}/members/dan", {}, {"team"}),
    "a member leaves": ("dan", "DELETE", "/v1/spaces/{team}/members/dan", {}, {"team"}),
    "a grant ends": ("bob", "DELETE", "/v1/grants/{grant}", {}, {"team"}),
    "a token ends": ("ann", "DELETE", "/v1/grants/{token}", {}, {"team"}),
    "a link ends": ("ann", "DELETE", "/v1/grants/{link}", {}, {"team"}),
    "a member's device is revoked": ("bob", "DELETE", "/v1/devices/{device}", {}, {"team", "bob"}),
    "a grantee's device is revoked": ("cat", "DELETE", "/v1/devices/{device}", {}, {"team", "cat"}),
    "a giver is disabled": ("eve", "PATCH", "/v1/admin/users/bob", {"disabled": True}, {"team", "bob"}),
    "a grantee is disabled": ("eve", "PATCH", "/v1/admin/users/cat", {"disabled": True}, {"team", "cat"}),
    "a member's password is changed": ("dan", "POST", "/v1/password", PASSWORDS, {"team", "dan"}),
    "a grantee's password is changed": ("cat", "POST", "/v1/password", PASSWORDS, {"team", "cat"}),
    "the space is deleted": ("ann", "DELETE", "/v1/spaces/{team}", {}, {"team"}),
}


@pytest.mark.parametrize("what", ENDINGS)
async def test_an_end_of_a_right_outdates_tickets_and_is_told_to_servers(auth, scene, what):
    people, spaces, ids = scene
    who, method, path, body, touched = ENDINGS[what]
    assert await auth.revocations() == {"spaces": {}, "links": [], "deleted": []}
    path = path.format(**ids, team=spaces["team"], device=people[who].device)
    await people[who].do(method, path, **body)
    assert (await auth.revocations())["spaces"] == {str(spaces[name]): 2 for name in touched}
    for name, space in spaces.items():
        assert await auth.epoch(space) == (2 if name in touched else 1)


@pytest.mark.parametrize("what", ENDINGS)
async def test_an_end_that_cannot_raise_the_epoch_does_not_happen(auth, scene, what):
    """As when the database fails in the middle: the right's end and the epoch are one transaction."""
    people, spaces, ids = scene
    who, method, path, body, _ = ENDINGS[what]
    tables = ("users", "members", "grants", "devices", "families", "spaces", "audit", "audit_heads")
    await auth.sql(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise 'no' using errcode = '57P01'; end $$"
    )
    await auth.sql(
        "create trigger refuse before update of membership_epoch on spaces for each row execute function refuse()"
    )

    async def state():
        rows = [
            await auth.sql(f"select string_agg(t::text, ' ' order by t::text) from {t} t") for t in tables
        ]
        return dict(zip(tables, rows, strict=True))

    before = await state()
    path = path.format(**ids, team=spaces["team"], device=people[who].device)
    assert (await people[who].ask(method, path, **body)).status_code == 503
    assert await state() == before


async def test_a_second_use_of_a_refresh_token_outdates_the_thiefs_tickets(auth, scene):
    people, spaces, _ = scene
    stolen = people["bob"].refresh
    for _ in range(3):
        await auth.post("/v1/refresh", refresh_token=stolen)
    assert (await auth.revocations())["spaces"] == {str(spaces["team"]): 2, str(spaces["bob"]): 2}


async def test_what_gives_a_right_outdates_nothing(auth, scene):
    people, spaces, _ = scene
    team = spaces["team"]
    await people["ann"].do("POST", f"/v1/spaces/{team}/members", user="fay", role="editor")
    await people["ann"].do("PATCH", f"/v1/spaces/{team}/members/dan", role="owner")
    await people["ann"].do("PATCH", f"/v1/spaces/{team}/members/dan", role="owner")
    await people["fay"].do("POST", "/v1/grants", space=team, root=5, path="x", to="cat")
    await people["eve"].do("PATCH", "/v1/admin/users/bob", disabled=False, quota_bytes=5)
    assert (await auth.revocations())["spaces"] == {}


async def test_ends_are_told_for_three_minutes(auth, scene):
    people, spaces, ids = scene
    team = spaces["team"]
    await people["bob"].do("DELETE", f"/v1/grants/{ids['grant']}")
    await auth.sql("update spaces set epoch_raised_at = epoch_raised_at - interval '178 seconds'")
    assert (await auth.revocations())["spaces"] == {str(team): 2}
    await auth.sql("update spaces set epoch_raised_at = epoch_raised_at - interval '4 seconds'")
    assert (await auth.revocations())["spaces"] == {}
    await people["bob"].do("DELETE", f"/v1/grants/{ids['token']}")
    assert (await auth.revocations())["spaces"] == {str(team): 3}


async def test_a_long_transaction_is_told_from_its_raise_on(auth, scene):
    """now() would be the transaction's start; a server that polls after the commit must still see it."""
    _, spaces, _ = scene
    async with auth.services.pool.acquire() as connected, connected.transaction():
        began = await connected.fetchval("select now()")
        await connected.execute("select pg_sleep(0.2)")
        await epochs.raise_space(connected, spaces["team"])
    raised = await auth.sql("select epoch_raised_at from spaces where id = $1", spaces["team"])
    assert (raised - began).total_seconds() >= 0.2


async def test_servers_routes_take_the_join_token_and_no_other(auth, scene):
    people, _, _ = scene
    for method, path in (
        ("GET", "/v1/revocations"),
        ("POST", "/v1/spaces/1/purged"),
        ("POST", "/v1/links/open"),
        ("POST", "/v1/nodes"),
    ):
        answer = await people["eve"].request(method, path, content=b"{{")
        assert (answer.status_code, answer.json()["message"]) == (401, "a valid token is required")
        assert answer.headers["www-authenticate"] == "Bearer"
    for method, path in (("GET", "/v1/whoami"), ("GET", "/v1/admin/users"), ("GET", "/v1/nothing")):
        answer = await auth.as_server(method, path)
        assert (answer.status_code, answer.json()["message"]) == (401, "a valid token is required")


async def test_without_a_join_token_no_token_is_one(auth, scene):
    object.__setattr__(auth.services, "join_token", "")
    for token in ("", "x", auth.join_token):
        answer = await auth.http.get("/v1/revocations", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 401


RACES = {
    "a member is removed": ("ann", "DELETE", "/v1/spaces/{team}/members/bob", {}, "bob", {"space": "crew"}),
    "a member's device is revoked": ("bob", "DELETE", "/v1/devices/{device}", {}, "bob", {"space": "crew"}),
    "a member is disabled": ("eve", "PATCH", "/v1/admin/users/bob", {"disabled": True}, "bob", {"space": "crew"}),
    "a grant ends": ("bob", "DELETE", "/v1/grants/{grant}", {}, "cat", {"grant": "grant"}),
    "a grantee's device is revoked": ("cat", "DELETE", "/v1/devices/{device}", {}, "cat", {"grant": "grant"}),
    "a giver is lowered": (
        "ann", "PATCH", "/v1/spaces/{team}/members/bob", {"role": "reader"}, "cat", {"grant": "grant"},
    ),
    "the space is deleted": ("ann", "DELETE", "/v1/spaces/{team}", {}, "cat", {"grant": "grant"}),
}  # fmt: skip


@pytest.mark.parametrize("what", RACES)
async def test_no_ticket_that_is_asked_for_meanwhile_is_of_the_new_epoch(auth, scene, what):
    """So servers that know the new epoch refuse every ticket that was given before the end, or at that moment."""
    people, spaces, ids = scene
    who, method, path, body, holder, wanted = RACES[what]
    wanted = {name: ids.get(value, value) for name, value in wanted.items()}
    path = path.format(**ids, team=spaces["team"], device=people[who].device)

    async def end_it():
        await asyncio.sleep(0.02)
        await people[who].do(method, path, **body)

    given = []

    async def keep_asking():
        while True:
            answer = await people[holder].ask("POST", "/v1/tickets", **wanted)
            if answer.status_code != 200:
                break
            given.append(auth.read(answer.json()).membership_epoch)

    await asyncio.gather(end_it(), *(keep_asking() for _ in range(6)))
    assert given
    assert max(given) < await auth.epoch(spaces["team"])


async def test_rights_changed_by_many_at_once_block_nobody_for_good(auth, scene):
    """Every transaction locks in one order: users, spaces by id, then the ends of the logs."""
    people, spaces, _ = scene
    names = ("ann", "bob", "cat", "dan", "fay")
    for name in names[1:]:
        await people["ann"].ask("POST", f"/v1/spaces/{spaces['team']}/members", user=name, role="owner")
        await people["ann"].ask("PATCH", f"/v1/spaces/{spaces['team']}/members/{name}", role="owner")
    other = await people["bob"].team("other", **dict.fromkeys(("ann", "cat", "dan", "fay"), "owner"))
    rng, seen = random.Random(3), []

    async def act(name):
        user = people[name]
        for _ in range(12):
            space, target = rng.choice((spaces["team"], other)), rng.choice(names)
            phone = await auth.post("/v1/login", user=name, password=PASSWORDS["old"], device="phone")
            device = phone.json().get("device_id", 1)
            method, path, body = rng.choice(
                (
                    ("DELETE", f"/v1/devices/{device}", {}),
                    ("POST", "/v1/password", {"old": PASSWORDS["old"], "new": PASSWORDS["old"]}),
                    ("POST", "/v1/grants", {"space": space, "root": 5, "path": "x", "to": target}),
                    ("POST", "/v1/grants", {"space": space, "root": 5, "path": "x", "label": "c"}),
                    (
                        "PATCH",
                        f"/v1/spaces/{space}/members/{target}",
                        {"role": rng.choice(("owner", "editor"))},
                    ),
                    ("POST", "/v1/spaces", {"name": str(rng.random())}),
                )
            )
            answer = await user.ask(method, path, **body)
            seen.append((answer.status_code, method, path, answer.text))

    async def disable():
        for number in range(12):
            await people["eve"].do("PATCH", "/v1/admin/users/fay", disabled=number % 2 == 0)

    await asyncio.gather(disable(), *(act(name) for name in names))
    assert [each for each in seen if each[0] >= 500] == []
    assert sum(each[0] < 300 for each in seen) > 15
    for space in (spaces["team"], other):
        assert (await people["ann"].ask("GET", f"/v1/spaces/{space}/members")).status_code in (200, 404)
    log = await people["eve"].get("/v1/admin/log")
    assert log["intact"]
