"""How much an owner's spaces may hold together, and what is promised of it to the mounts of each."""

import pytest

from cloudverge_metaserver.quotas import LEAST_BYTES, SHARE_BYTES, Measure, allowed

MIB = 1 << 20
GIB = 1 << 30
MUCH = 1 << 60


def measure(**fields) -> Measure:
    nothing = dict.fromkeys(("used", "quota", "owner_quota", "others", "reserved", "active", "kept"), 0)
    return Measure(**{**nothing, "share": SHARE_BYTES, "least": LEAST_BYTES, **fields})


def test_the_lower_of_both_quotas_holds_and_the_others_count_in_the_owners():
    assert allowed(0, 0, 5) == 0
    assert allowed(100, 0, 5) == 100
    assert allowed(0, 100, 30) == 70
    assert allowed(50, 100, 30) == 50
    assert allowed(50, 100, 80) == 20
    assert allowed(0, 100, 300) == 1  # 0 would be no limit


def test_where_the_owner_has_no_quota_nothing_is_promised():
    assert measure(quota=100, used=20).promise(MUCH) == 0


def test_who_is_alone_is_promised_all_that_is_allowed_whatever_he_claims():
    assert measure(owner_quota=GIB, used=5, others=100).promise(6) == GIB - 100


def test_beside_another_mount_a_share_is_promised_to_who_claims_it():
    beside = measure(owner_quota=10 * GIB, used=GIB, active=1)
    assert beside.promise(MUCH) == GIB + SHARE_BYTES
    assert beside.promise(GIB + 5 * MIB) == GIB + 5 * MIB


def test_the_last_bytes_are_not_cut_into_ever_smaller_parts():
    assert measure(owner_quota=6 * MIB, used=MIB, active=5).promise(MUCH) == 6 * MIB


def test_what_was_promised_to_others_is_not_promised_again():
    assert measure(owner_quota=GIB, used=0, reserved=GIB, active=1).promise(MUCH) == 1
    assert measure(owner_quota=GIB, used=100, reserved=GIB - 300, active=1).promise(MUCH) == 300


def test_a_promise_shrinks_to_the_claim_and_not_below():
    crowded = measure(owner_quota=GIB, used=0, reserved=GIB // 2, active=3, kept=GIB // 2)
    assert crowded.promise(GIB // 2) == GIB // 2
    assert crowded.promise(GIB // 4) == GIB // 4


def test_a_claim_beyond_what_was_promised_keeps_no_more_than_that():
    assert measure(owner_quota=GIB, reserved=GIB - 100, active=1, kept=100).promise(MUCH) == 100


async def test_two_spaces_of_an_owner_are_never_promised_more_than_his_quota(world, make_identity):
    def ticket(space: int):
        return make_identity(space=space, owner=9, owner_quota_bytes=100 * MIB, owner_quota_inodes=1000)

    first = await world.open(ticket(71))
    assert first.opened.promised_bytes == 100 * MIB
    second = await world.open(ticket(72))
    assert second.opened.promised_bytes == 1
    claim = second.claim(MUCH, MUCH)
    assert (await world.sessions.renew(ticket(72), claim)).promised_bytes == 1
    told = await world.sessions.renew(ticket(71), first.claim(40 * MIB, 300))
    assert (told.promised_bytes, told.promised_inodes) == (40 * MIB, 300)
    told = await world.sessions.renew(ticket(72), claim)
    assert told.promised_bytes == 50 * MIB
    assert 40 * MIB + told.promised_bytes <= told.quota_bytes
    await world.sessions.close(ticket(72), second.ref)
    assert (await world.sessions.renew(ticket(71), first.claim(1, 1))).promised_bytes == 100 * MIB


@pytest.mark.parametrize(("seconds", "kept"), [(0.0, True), (100.0, False)])
async def test_a_session_that_comes_back_in_time_keeps_its_promise(world, make_identity, seconds, kept):
    def ticket(space: int):
        return make_identity(space=space, owner=9, owner_quota_bytes=100 * MIB)

    first = await world.open(ticket(71))
    await world.sql(
        "update meta.leases set expires_at = expires_at - $1::float8 * interval '1 s' returning 1", seconds
    )
    other = await world.open(ticket(72))
    assert (other.opened.promised_bytes == 1) == kept
    again = await world.open(ticket(71), cache_id=first.cache_id)
    assert (again.opened.promised_bytes == 100 * MIB) == kept
