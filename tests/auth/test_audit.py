"""The log of rights: everything that changes one is in it, and what was done to the log itself shows."""

import asyncio

import pytest

pytestmark = pytest.mark.anyio


@pytest.fixture
async def people(auth):
    return {name: await auth.sign_up(name) for name in ("ann", "bob", "cat")}


async def log_of(user, space, query=""):
    return await user.get(f"/v1/spaces/{space}/log{query}")


async def test_a_spaces_log_tells_who_did_what_from_which_device(auth, people):
    ann = people["ann"]
    space = await ann.team(bob="reader")
    await ann.do("PATCH", f"/v1/spaces/{space}/members/bob", role="editor")
    grant = (
        await people["bob"].do("POST", "/v1/grants", space=space, root=5, path="a/b", to="cat", rw=True)
    )["id"]
    token = (
        await ann.do("POST", "/v1/grants", space=space, root=5, path="a/b", label="camera", until=2**32)
    )["id"]
    link = (await ann.do("POST", "/v1/links", space=space, ino=6, path="a/c", password="x", max_downloads=3))[
        "id"
    ]
    await ann.do("DELETE", f"/v1/grants/{grant}")
    await ann.do("DELETE", f"/v1/spaces/{space}/members/bob")
    log = await log_of(ann, space)
    assert log["intact"]
    entries = log["entries"][::-1]
    assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))
    assert {(entry["user"], entry["device"]) for entry in entries} == {("ann", "laptop"), ("bob", "laptop")}
    assert [(entry["action"], entry["detail"]) for entry in entries] == [
        ("space.create", "crew"),
        ("member.add", "bob as reader"),
        ("member.role", "bob from reader to editor"),
        ("grant.give", f"{grant}: a/b to cat, read and write"),
        ("token.make", f"{token}: a/b for camera, read only until 2106-02-07 06:28:16 UTC"),
        ("link.make", f"{link}: a/c, read only, with a password, 3 downloads"),
        ("grant.end", f"{grant}: a/b"),
        ("member.remove", "bob"),
    ]


async def test_logs_are_for_owners_and_editors(auth, people):
    space = await people["ann"].team(bob="editor", cat="reader")
    assert (await log_of(people["bob"], space))["entries"]
    assert (await people["cat"].ask("GET", f"/v1/spaces/{space}/log")).status_code == 403


async def test_a_log_is_read_in_pages(auth, people):
    space = await people["ann"].team(bob="editor", cat="reader")
    first = (await log_of(people["ann"], space, "?limit=2"))["entries"]
    rest = (await log_of(people["ann"], space, f"?limit=5&before={first[-1]['seq']}"))["entries"]
    assert [entry["seq"] for entry in first + rest] == [3, 2, 1]
    for query in ("?limit=0", "?limit=1001", "?before=-1", "?before=x"):
        assert (await people["ann"].ask("GET", f"/v1/spaces/{space}/log{query}")).status_code == 400


TAMPERINGS = {
    "a detail changed": "update audit set detail = 'cat as reader' where space_id = $1 and seq = 2",
    "a time changed": "update audit set at = at + interval '1 microsecond' where space_id = $1 and seq = 2",
    "a name changed": "update audit set user_name = 'cat' where space_id = $1 and seq = 1",
    "a row removed": "delete from audit where space_id = $1 and seq = 2",
    "the first row removed": "delete from audit where space_id = $1 and seq = 1",
    "the end cut off": "delete from audit where space_id = $1 and seq = 3",
    "all removed": "delete from audit where space_id = $1",
    "a hash changed": "update audit set hash = sha256(hash) where space_id = $1 and seq = 3",
    "a row added": "insert into audit select space_id, seq + 1, at, user_id, user_name, device_id, device_name,"
    " action, detail, hash from audit where space_id = $1 and seq = 3",
    "rows swapped": "update audit set seq = case seq when 2 then 1002 else 1001 end"
    " where space_id = $1 and seq in (1, 2)",
    "a row changed and its own hash with it": "update audit set detail = 'x', hash = audit_hash('\\x00', space_id,"
    " seq, at, user_id, user_name, device_id, device_name, action, 'x') where space_id = $1 and seq = 2",
    "the head moved": "update audit_heads set seq = seq + 1 where space_id = $1",
}


@pytest.mark.parametrize("what", TAMPERINGS)
async def test_a_log_that_was_changed_afterwards_says_so(auth, people, what):
    space, other = await people["ann"].team(bob="editor", cat="reader"), await people["ann"].team("other")
    assert (await log_of(people["ann"], space))["intact"]
    await auth.sql(TAMPERINGS[what], space)
    assert not (await log_of(people["ann"], space, "?limit=1"))["intact"]
    assert (await log_of(people["ann"], other))["intact"]


async def test_a_space_without_a_log_is_intact(auth, people):
    space = await people["ann"].space()
    assert await log_of(people["ann"], space) == {"entries": [], "intact": True}


async def test_a_chain_has_no_forks_however_many_write_at_once(auth, people):
    space = await people["ann"].team()
    body = {"space": space, "root": 5, "path": "x"}
    await asyncio.gather(*(people["ann"].do("POST", "/v1/grants", **body, label=f"c{n}") for n in range(25)))
    log = await log_of(people["ann"], space)
    assert log["intact"]
    assert [entry["seq"] for entry in log["entries"]] == list(range(26, 0, -1))


async def test_what_was_refused_is_not_in_the_log(auth, people):
    space = await people["ann"].team(bob="editor")
    await people["bob"].ask("PATCH", f"/v1/spaces/{space}/members/bob", role="owner")
    await people["ann"].ask("DELETE", f"/v1/spaces/{space}/members/ann")
    await people["ann"].ask("DELETE", "/v1/grants/4000000")
    assert len((await log_of(people["ann"], space))["entries"]) == 2


async def test_a_change_that_cannot_be_logged_is_not_made(auth, people):
    space = await people["ann"].team(bob="editor")
    await auth.sql("alter table audit add check (action not like 'member.%') not valid")
    answer = await people["ann"].ask("DELETE", f"/v1/spaces/{space}/members/bob")
    assert answer.status_code == 500
    assert len(await people["ann"].get(f"/v1/spaces/{space}/members")) == 2
    assert await auth.epoch(space) == 1


async def test_accounts_have_a_log_of_their_own(auth, people):
    ann, bob = people["ann"], people["bob"]
    await auth.make_admin(ann)
    phone = await auth.log_in("bob", "phone")
    await auth.log_in("bob", "phone")
    await bob.do("DELETE", f"/v1/devices/{phone.device}")
    await bob.do("POST", "/v1/password", old="correct horse battery", new="battery staple")
    invite = (await ann.do("POST", "/v1/admin/invites", admin=True))["id"]
    await ann.do("DELETE", f"/v1/admin/invites/{invite}")
    await ann.do("PUT", "/v1/admin/policy", sign_up="closed")
    await ann.do("PATCH", "/v1/admin/users/cat", disabled=True, quota_bytes=7)
    space = await bob.space()
    await ann.do("PATCH", f"/v1/admin/spaces/{space}", quota_inodes=9)
    log = await ann.get("/v1/admin/log?limit=9")
    assert log["intact"]
    told = [(entry["user"], entry["device"], entry["action"], entry["detail"]) for entry in log["entries"]][
        ::-1
    ]
    assert told == [
        ("cat", "laptop", "user.create", "cat"),
        ("cat", "laptop", "device.add", "laptop"),
        ("bob", "phone", "device.add", "phone"),
        ("bob", "laptop", "device.revoke", "phone"),
        ("bob", "laptop", "password.change", "bob"),
        ("ann", "laptop", "invite.make", f"{invite}: for an administrator"),
        ("ann", "laptop", "invite.revoke", f"{invite}"),
        ("ann", "laptop", "policy.sign_up", "closed"),
        ("ann", "laptop", "user.change", "cat: disabled true, quota_bytes 7"),
    ]
    (entry,) = (await log_of(bob, space))["entries"]
    assert (entry["user"], entry["action"], entry["detail"]) == ("ann", "space.quota", "quota_inodes 9")
