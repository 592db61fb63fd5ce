"""Administrators, invitations, and who may sign up."""

import asyncio
import time

import pytest

from cloudverge_wire.join import new_join_token

pytestmark = pytest.mark.anyio

PASSWORD = "correct horse battery"


@pytest.fixture
async def people(auth):
    found = {name: await auth.sign_up(name) for name in ("ann", "bob", "cat")}
    await auth.make_admin(found["ann"])
    return found


@pytest.fixture
def invite_file(tmp_path):
    path = tmp_path / "admin-invite"
    path.touch(0o600)
    path.write_text(new_join_token())
    return path


async def sign_up(auth, name, invite=""):
    return await auth.post(
        "/v1/signup", user=name, password=PASSWORD, **({"invite": invite} if invite else {})
    )


async def test_others_are_told_that_it_is_not_for_them_whatever_they_send(auth, people):
    for method, path in (
        ("GET", "users"), ("PATCH", "users/bob"), ("PATCH", "spaces/1"), ("POST", "invites"), ("GET", "invites"),
        ("DELETE", "invites/1"), ("GET", "policy"), ("PUT", "policy"), ("GET", "log"), ("GET", "nothing"),
    ):  # fmt: skip
        answer = await people["bob"].request(method, f"/v1/admin/{path}", content=b"{{")
        assert (answer.status_code, answer.json()) == (
            403,
            {"code": "FORBIDDEN", "message": "this is for administrators"},
        )


async def test_administrators_see_users_and_what_counts_for_them(auth, people):
    await people["bob"].team()
    users = await people["ann"].get("/v1/admin/users")
    assert [(each["user"], each["admin"], each["disabled"], each["spaces"]) for each in users] == [
        ("ann", True, False, 1), ("bob", False, False, 2), ("cat", False, False, 1),
    ]  # fmt: skip
    assert not any("password" in name or "hash" in name for name in users[0])


async def test_quotas_are_in_the_next_ticket(auth, people):
    bob = people["bob"]
    changed = await people["ann"].do("PATCH", "/v1/admin/users/bob", quota_bytes=1000, quota_inodes=20)
    assert (changed["quota_bytes"], changed["quota_inodes"]) == (1000, 20)
    await people["ann"].do("PATCH", f"/v1/admin/spaces/{await bob.space()}", quota_bytes=300)
    claims = await auth.claims(bob)
    assert (claims.quota_bytes, claims.quota_inodes) == (300, 0)
    assert (claims.owner_quota_bytes, claims.owner_quota_inodes) == (1000, 20)
    await people["ann"].do("PATCH", "/v1/admin/users/bob", quota_bytes=0)
    claims = await auth.claims(bob)
    assert (claims.owner_quota_bytes, claims.owner_quota_inodes) == (0, 20)


async def test_new_users_get_the_quota_of_the_settings(start_auth):
    auth = await start_auth(user_quota_bytes=70, user_quota_inodes=8)
    claims = await auth.claims(await auth.sign_up("ann"))
    assert (claims.owner_quota_bytes, claims.owner_quota_inodes) == (70, 8)


@pytest.mark.parametrize(("what", "path"), [("user", "users/nobody"), ("space", "spaces/4000000")])
async def test_what_does_not_exist_cannot_be_changed(auth, people, what, path):
    answer = await people["ann"].ask("PATCH", f"/v1/admin/{path}", quota_bytes=5)
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


async def test_a_disabled_user_is_out_until_he_signs_in_again(auth, people):
    bob = people["bob"]
    assert (await people["ann"].do("PATCH", "/v1/admin/users/bob", disabled=True))["disabled"]
    assert not await bob.is_in()
    assert (await auth.post("/v1/refresh", refresh_token=bob.refresh)).status_code == 401
    assert (await auth.post("/v1/login", user="bob", password=PASSWORD)).status_code == 401
    await people["ann"].do("PATCH", "/v1/admin/users/bob", disabled=False)
    assert not await bob.is_in()
    assert await (await auth.log_in("bob")).is_in()


async def test_there_is_always_an_administrator(auth, people):
    ann, bob = people["ann"], people["bob"]
    for change in ({"admin": False}, {"disabled": True}, {"admin": False, "disabled": True}):
        answer = await ann.ask("PATCH", "/v1/admin/users/ann", **change)
        assert (answer.status_code, answer.json()["code"]) == (409, "NOT_PERMITTED")
    await ann.do("PATCH", "/v1/admin/users/bob", admin=True)
    await ann.do("PATCH", "/v1/admin/users/ann", admin=False)
    assert (await ann.ask("GET", "/v1/admin/users")).status_code == 403
    await bob.do("PATCH", "/v1/admin/users/ann", admin=True, disabled=True)
    assert (await bob.ask("PATCH", "/v1/admin/users/bob", admin=False)).status_code == 409
    await bob.do("PATCH", "/v1/admin/users/ann", admin=False)


async def test_of_administrators_who_end_each_other_at_once_one_stays(auth, people):
    for _ in range(5):
        await auth.sql("update users set admin = name in ('ann', 'bob')")
        answers = await asyncio.gather(
            people["ann"].ask("PATCH", "/v1/admin/users/bob", admin=False),
            people["bob"].ask("PATCH", "/v1/admin/users/ann", admin=False),
        )
        assert sorted(answer.status_code for answer in answers) == [200, 403]
        assert await auth.sql("select count(*) from users where admin") == 1


class TestInvitations:
    """One-time secrets."""

    async def test_one_lets_one_stranger_in(self, auth, people):
        await people["ann"].do("PUT", "/v1/admin/policy", sign_up="invite")
        made = await people["ann"].do("POST", "/v1/admin/invites")
        answers = await asyncio.gather(*(sign_up(auth, f"guest{n}", made["invite"]) for n in range(5)))
        assert sorted(answer.status_code for answer in answers) == [201] + [403] * 4
        assert await auth.sql("select count(*) from users") == 4
        (listed,) = await people["ann"].get("/v1/admin/invites")
        assert (listed["state"], listed["by"], listed["admin"]) == ("used", "ann", False)
        assert listed["used_by"].startswith("guest")

    async def test_one_is_not_used_up_by_a_sign_up_that_fails(self, auth, people):
        made = await people["ann"].do("POST", "/v1/admin/invites")
        assert (await sign_up(auth, "bob", made["invite"])).status_code == 409
        assert (await sign_up(auth, "dan", made["invite"])).status_code == 201

    async def test_withdrawn_old_and_unknown_ones_are_refused_alike(self, auth, people):
        withdrawn, old = [await people["ann"].do("POST", "/v1/admin/invites", until=2**32) for _ in range(2)]
        await people["ann"].do("DELETE", f"/v1/admin/invites/{withdrawn['id']}")
        await auth.sql("update invites set until = now() where id = $1", old["id"])
        for policy in ("invite", "open"):
            await people["ann"].do("PUT", "/v1/admin/policy", sign_up=policy)
            bodies = [
                (await sign_up(auth, "dan", secret)).content
                for secret in (withdrawn["invite"], old["invite"], "x" * 43)
            ]
            assert len(set(bodies)) == 1
            assert b"FORBIDDEN" in bodies[0]
        states = [each["state"] for each in await people["ann"].get("/v1/admin/invites")]
        assert states == ["expired", "revoked"]
        for number in (withdrawn["id"], old["id"], 4_000_000):
            answer = await people["ann"].ask("DELETE", f"/v1/admin/invites/{number}")
            assert answer.status_code == 404

    async def test_they_are_stored_as_hashes_only(self, auth, people):
        made = await people["ann"].do("POST", "/v1/admin/invites", admin=True)
        for table in ("invites", "audit"):
            dump = await auth.sql(f"select string_agg(t::text, ' ') from {table} t")
            assert made["invite"] not in dump

    async def test_one_for_administrators_makes_one_of_a_user_or_of_a_stranger(self, auth, people):
        for_user, for_stranger, common = [
            (await people["ann"].do("POST", "/v1/admin/invites", admin=admin))["invite"]
            for admin in (True, True, False)
        ]
        for wrong in (common, "x" * 43, ""):
            assert (await people["bob"].ask("POST", "/v1/claim", invite=wrong)).status_code == 403
        assert not (await people["bob"].get("/v1/whoami"))["admin"]
        await people["bob"].do("POST", "/v1/claim", invite=for_user)
        assert (await people["bob"].get("/v1/whoami"))["admin"]
        assert (await people["cat"].ask("POST", "/v1/claim", invite=for_user)).status_code == 403
        again = await people["bob"].ask("POST", "/v1/claim", invite=for_stranger)
        assert (again.status_code, again.json()["code"]) == (409, "EXISTS")
        assert (await sign_up(auth, "dan", for_stranger)).status_code == 201
        assert await auth.sql("select admin from users where name = 'dan'")
        assert (await sign_up(auth, "eve", common)).status_code == 201
        assert not await auth.sql("select admin from users where name = 'eve'")

    async def test_the_operators_is_taken_in_once(self, start_auth, invite_file):
        for _ in range(2):
            auth = await start_auth(admin_invite_file=invite_file)
        assert await auth.sql("select count(*) from invites") == 1
        ann, bob = await auth.sign_up("ann"), await auth.sign_up("bob")
        await ann.do("POST", "/v1/claim", invite=invite_file.read_text())
        auth = await start_auth(admin_invite_file=invite_file)
        assert (await bob.ask("POST", "/v1/claim", invite=invite_file.read_text())).status_code == 403
        (listed,) = await ann.get("/v1/admin/invites")
        assert (listed["by"], listed["used_by"], listed["admin"]) == ("", "ann", True)
        invite_file.unlink()
        await start_auth(admin_invite_file=invite_file)

    async def test_the_operators_must_be_kept_from_others(self, start_auth, invite_file):
        invite_file.chmod(0o644)
        with pytest.raises(Exception, match=r"administrator invitation .* chmod 600"):
            await start_auth(admin_invite_file=invite_file)


class TestPolicy:
    """Who may sign up."""

    async def test_an_administrators_word_holds_on_all_servers_at_once(self, start_auth):
        auth, other = await start_auth(), await start_auth(sign_up="open")
        ann = await auth.sign_up("ann")
        await auth.make_admin(ann)
        assert await ann.get("/v1/admin/policy") == {"sign_up": "open"}
        for word, status in (("closed", 403), ("invite", 403), ("open", 201)):
            assert await ann.do("PUT", "/v1/admin/policy", sign_up=word) == {"sign_up": word}
            for server in (auth, other):
                assert await ann.get("/v1/admin/policy") == {"sign_up": word}
                assert (await sign_up(server, f"x{time.monotonic_ns()}")).status_code == status
        assert (await ann.ask("PUT", "/v1/admin/policy", sign_up="ajar")).status_code == 400

    @pytest.mark.parametrize(
        ("settings", "policy"),
        [
            ({"host": "127.0.0.1"}, "open"),
            ({"host": "::1"}, "open"),
            ({"host": "0.0.0.0"}, "invite"),
            ({"host": "127.0.0.1", "sign_up": "closed"}, "closed"),
        ],
    )
    async def test_until_then_it_is_the_operators(self, start_auth, settings, policy):
        auth = await start_auth(**settings)
        assert (await sign_up(auth, "ann")).status_code == (201 if policy == "open" else 403)
        assert auth.services.accounts.defaults.policy == policy

    async def test_a_closed_cluster_lets_its_operator_in(self, start_auth, invite_file):
        auth = await start_auth(sign_up="closed", admin_invite_file=invite_file)
        assert (await sign_up(auth, "bob", "x" * 43)).status_code == 403
        assert (await sign_up(auth, "ann", invite_file.read_text())).status_code == 201
        ann = await auth.log_in("ann")
        common = (await ann.do("POST", "/v1/admin/invites"))["invite"]
        refused = await sign_up(auth, "bob", common)
        assert (refused.status_code, "operator" in refused.json()["message"]) == (403, True)
