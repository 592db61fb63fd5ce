"""Devices, spaces and the tickets for them."""

import time
from datetime import timedelta

import pytest

from cloudverge_auth.signing import PUBLISH_AHEAD_S, RETIRED_FOR, SigningKeys
from cloudverge_auth.spaces import Space, choose_space
from cloudverge_auth.tokens import IDENTITY_LIFE_S, verify_identity
from cloudverge_protocol.errors import Refused

pytestmark = pytest.mark.anyio


async def ticket_of(auth, user, **body):
    answer = await user.request("POST", "/v1/tickets", json=body)
    assert answer.status_code == 200, answer.text
    given = answer.json()
    assert given["expires_s"] == IDENTITY_LIFE_S
    claims = verify_identity(auth.services.keys.ring, given["ticket"], auth.cluster, time.time())
    assert (given["space"], given["role"]) == (claims.space, claims.role)
    return claims


async def share(auth, owner, member, role):
    await auth.sql(
        "insert into members (space_id, user_id, role) select id, $2, $3 from spaces where owner_id = $1",
        owner.id,
        member.id,
        role,
    )


async def test_a_ticket_says_who_where_and_what(start_auth):
    auth = await start_auth(quota_bytes=10, quota_inodes=20)
    ann = await auth.sign_up("ann", "laptop")
    (space,) = await ann.get("/v1/spaces")
    claims = await ticket_of(auth, ann)
    assert (claims.user, claims.name, claims.device, claims.device_name) == (
        ann.id,
        "ann",
        ann.device,
        "laptop",
    )
    assert (claims.space, claims.role, claims.membership_epoch) == (space["id"], "owner", 1)
    assert (claims.quota_bytes, claims.quota_inodes) == (10, 20)


async def test_a_space_is_found_by_name_by_id_or_as_the_first_own_one(auth):
    ann, bob = await auth.sign_up("ann"), await auth.sign_up("bob")
    await share(auth, ann, bob, "reader")
    spaces = {space["name"]: space["id"] for space in await bob.get("/v1/spaces")}
    assert list(spaces) == ["bob", "ann"]
    assert (await ticket_of(auth, bob)).space == spaces["bob"]
    for wanted in ("ann", spaces["ann"], str(spaces["ann"])):
        claims = await ticket_of(auth, bob, space=wanted)
        assert (claims.space, claims.role) == (spaces["ann"], "reader")


async def test_a_member_who_was_removed_gets_no_more_tickets(auth):
    ann, bob = await auth.sign_up("ann"), await auth.sign_up("bob")
    await share(auth, ann, bob, "editor")
    await ticket_of(auth, bob, space="ann")
    await auth.sql("delete from members where user_id = $1 and role = 'editor'", bob.id)
    assert (await bob.request("POST", "/v1/tickets", json={"space": "ann"})).status_code == 404


async def test_spaces_of_others_deleted_ones_and_none_at_all_are_refused_alike(auth):
    ann, bob = await auth.sign_up("ann"), await auth.sign_up("bob")
    deleted, others = await bob.team("gone", ann="editor"), await ann.space()
    assert (await ticket_of(auth, bob, space=deleted)).space == deleted
    await bob.do("DELETE", f"/v1/spaces/{deleted}")
    answers = [
        await bob.ask("POST", "/v1/tickets", space=space) for space in (others, deleted, 2**62, "none")
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1


@pytest.mark.parametrize(
    "body", [{"space": 0}, {"space": -1}, {"space": 2**63}, {"space": "a\u0000"}, {"space": []}]
)
async def test_what_names_no_space_is_refused(auth, body):
    ann = await auth.sign_up()
    assert (await ann.request("POST", "/v1/tickets", json=body)).status_code == 400


def space(number, name, owned=True):
    return Space(number, name, "owner", "personal", "ann", owned, 0, 0)


def test_names_go_before_ids_and_own_spaces_before_others():
    spaces = [space(1, "mine"), space(2, "7"), space(7, "mine", False), space(8, "theirs", False)]
    assert choose_space(spaces, "").id == 1
    assert choose_space(spaces, "mine").id == 1
    assert choose_space(spaces, "7").id == 2
    assert choose_space(spaces, 7).id == 7
    assert choose_space(spaces, "8").id == 8
    for absent in ("none", "9", 9, "9" * 400, "\u0667"):
        with pytest.raises(Refused):
            choose_space(spaces, absent)
    with pytest.raises(Refused):
        choose_space([space(8, "theirs", False)], "")


async def test_devices_are_listed_with_the_current_one_marked(auth):
    ann = await auth.sign_up(device="laptop")
    await auth.log_in(device="phone")
    listed = await ann.get("/v1/devices")
    assert [(device["name"], device["current"]) for device in listed] == [("laptop", True), ("phone", False)]


async def test_a_revoked_device_is_out_at_once_and_its_tickets_are_outdated(auth):
    ann = await auth.sign_up(device="laptop")
    phone = await auth.log_in(device="phone")
    bob = await auth.sign_up("bob")
    await share(auth, bob, ann, "editor")
    before = [await ticket_of(auth, ann, space=name) for name in ("ann", "bob")]
    assert (await ann.request("DELETE", f"/v1/devices/{phone.device}")).status_code == 200
    assert not await phone.is_in()
    refreshed = await auth.post("/v1/refresh", refresh_token=phone.refresh)
    assert (refreshed.status_code, refreshed.json()["message"]) == (403, "this device has been revoked")
    assert (await ann.request("DELETE", f"/v1/devices/{phone.device}")).status_code == 404
    for old in before:
        assert (await ticket_of(auth, ann, space=old.space)).membership_epoch == old.membership_epoch + 1
    assert [device["name"] for device in await ann.get("/v1/devices")] == ["laptop"]


async def test_a_revoked_devices_name_signs_in_as_a_new_device(auth):
    ann = await auth.sign_up(device="laptop")
    await ann.request("DELETE", f"/v1/devices/{ann.device}")
    assert not await ann.is_in()
    again = await auth.log_in(device="laptop")
    assert again.device != ann.device


class TestSigningKeys:
    """Rotation without a gap, across servers."""

    async def test_servers_on_one_database_sign_with_one_key(self, start_auth):
        one, two = await start_auth(), await start_auth()
        assert one.services.keys.signer.kid == two.services.keys.signer.kid
        ann = await one.sign_up()
        answer = await two.http.get("/v1/whoami", headers={"authorization": f"Bearer {ann.access}"})
        assert answer.status_code == 200

    async def test_a_new_key_is_published_before_it_signs_and_the_old_one_after(self, auth):
        keys, pool = auth.services.keys, auth.services.pool
        old = keys.signer.kid
        new = await keys.rotate()
        assert keys.signer.kid == old
        assert set(keys.ring.to_public()) == {old, new}
        await self.pass_time(pool, PUBLISH_AHEAD_S + 1)
        await keys.load()
        assert keys.signer.kid == new
        assert old in keys.ring
        await self.pass_time(pool, RETIRED_FOR.total_seconds())
        await keys.load()
        assert set(keys.ring.to_public()) == {new}

    @staticmethod
    async def pass_time(pool, seconds):
        """Make all keys that much older."""
        await pool.execute(
            "update signing_keys set signs_from = signs_from - make_interval(secs => $1),"
            " retired_at = retired_at - make_interval(secs => $1)",
            float(seconds),
        )

    async def test_a_user_signed_in_before_a_rotation_stays_in(self, auth):
        ann = await auth.sign_up()
        new = await auth.services.keys.rotate()
        await self.pass_time(auth.services.pool, PUBLISH_AHEAD_S + 1)
        await auth.services.keys.load()
        assert auth.services.keys.signer.kid == new
        assert await ann.is_in()
        await self.pass_time(auth.services.pool, RETIRED_FOR.total_seconds())
        await auth.services.keys.load()
        assert set(auth.services.keys.ring.to_public()) == {new}  # by now her access token has run out too
        ann.take((await auth.post("/v1/refresh", refresh_token=ann.refresh)).json())
        assert await ann.is_in()
        assert (await ticket_of(auth, ann)).user == ann.id

    async def test_keys_of_an_age_are_rotated_and_one_at_a_time(self, auth):
        keys, pool = auth.services.keys, auth.services.pool
        await keys.rotate_if_older(timedelta(days=30))
        assert len(keys.ring.keys) == 1
        await pool.execute("update signing_keys set created_at = created_at - interval '31 days'")
        await keys.rotate_if_older(timedelta(days=30))
        assert len(keys.ring.keys) == 2
        await pool.execute("update signing_keys set created_at = created_at - interval '31 days'")
        await keys.rotate_if_older(timedelta(days=30))
        assert len(keys.ring.keys) == 2, "one is about to take over already"
        with pytest.raises(Refused):
            await keys.rotate()

    async def test_keys_in_memory_outlive_a_database_that_is_away(self, auth, postgres):
        keys: SigningKeys = auth.services.keys
        kid = keys.signer.kid
        postgres.kill()
        try:
            with pytest.raises(Exception, match="does not answer"):
                await keys.load()
            assert keys.signer.kid == kid
            assert (await auth.http.get("/v1/keys")).status_code == 200
            answer = await auth.post("/v1/login", user="ann", password="some password")
            assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
        finally:
            postgres.start()
        await auth.sign_up()
