"""Signing up, in, out and again."""

import asyncio
import secrets
import time

import pytest

from cloudverge_auth.services import sweep
from cloudverge_auth.signins import MAX_FAMILIES
from cloudverge_auth.tokens import ACCESS_LIFE_S

pytestmark = pytest.mark.anyio

PASSWORD = "correct horse battery"


async def test_sign_up_makes_a_user_a_space_and_a_sign_in(auth):
    answer = await auth.post("/v1/signup", user="ann", password=PASSWORD, device="laptop")
    assert answer.status_code == 201
    body = answer.json()
    assert set(body) == {
        "access_token", "access_expires_s", "refresh_token", "user_id", "device_id", "cluster",
    }  # fmt: skip
    assert (body["access_expires_s"], body["cluster"]) == (ACCESS_LIFE_S, auth.cluster)
    headers = {"authorization": f"Bearer {body['access_token']}"}
    who = (await auth.http.get("/v1/whoami", headers=headers)).json()
    assert who == {
        "user_id": body["user_id"],
        "user": "ann",
        "device_id": body["device_id"],
        "device": "laptop",
        "cluster": auth.cluster,
        "admin": False,
    }
    (space,) = (await auth.http.get("/v1/spaces", headers=headers)).json()
    assert (space["name"], space["role"], space["quota_bytes"], space["quota_inodes"]) == (
        "ann",
        "owner",
        0,
        0,
    )


async def test_first_spaces_get_the_quota_of_the_settings(start_auth):
    auth = await start_auth(quota_bytes=5000, quota_inodes=70)
    (space,) = await (await auth.sign_up()).get("/v1/spaces")
    assert (space["quota_bytes"], space["quota_inodes"]) == (5000, 70)


async def test_a_taken_name_is_said_to_be(auth):
    await auth.sign_up()
    answer = await auth.post("/v1/signup", user="ann", password="another password", device="x")
    assert (answer.status_code, answer.json()["code"]) == (409, "EXISTS")
    assert await auth.sql("select count(*) from spaces") == 1


async def test_of_many_who_want_one_name_one_gets_it(auth):
    body = {"user": "ann", "password": PASSWORD, "device": "x"}
    answers = await asyncio.gather(*(auth.post("/v1/signup", **body) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 5


@pytest.mark.parametrize(
    "body",
    [
        {"user": ""}, {"user": "Ann"}, {"user": "a b"}, {"user": "a" * 65}, {"user": ".."}, {"user": "ann\n"},
        {"user": "\u00e4nn"}, {"user": ["ann"]}, {"user": None},
        {"password": "short12"}, {"password": "x" * 1025}, {"password": None}, {"password": ["x" * 8]},
        {"device": "x" * 65}, {"device": "a\u0000b"}, {"device": 5}, {"admin": True},
    ],
    ids=str,
)  # fmt: skip
async def test_what_is_no_account_is_refused(auth, body):
    body = {"user": "ann", "password": PASSWORD, "device": "laptop"} | body
    for path in ("/v1/signup", "/v1/login"):
        answer = await auth.post(path, **body)
        assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST")
    assert await auth.sql("select count(*) from users") == 0


async def test_the_longest_password_and_any_character_in_it_work(auth):
    for name, password in (
        ("long", "p" * 1024),
        ("odd", "\u0000\u20ac\U0001f40e 'quoted' \\"),
        ("eight", "12345678"),
    ):
        assert (await auth.post("/v1/signup", user=name, password=password)).status_code == 201
        await auth.log_in(name, password=password)


async def test_login_finds_the_device_of_that_name_or_makes_one(auth):
    ann = await auth.sign_up(device="laptop")
    assert (await auth.log_in(device="laptop")).device == ann.device
    assert (await auth.log_in(device="phone")).device != ann.device
    assert [device["name"] for device in await ann.get("/v1/devices")] == ["laptop", "phone"]


async def test_wrong_password_absent_user_and_disabled_user_get_one_answer(auth):
    await auth.sign_up("ann")
    await auth.sign_up("gone")
    await auth.sql("update users set disabled_at = now() where name = 'gone'")
    answers = [
        await auth.post("/v1/login", user=name, password=password, device="x")
        for name, password in (("ann", "wrong password"), ("nobody", PASSWORD), ("gone", PASSWORD))
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert len({tuple(answer.headers.items()) for answer in answers}) == 1
    assert "wrong" in answers[0].json()["message"]


async def test_an_absent_user_costs_as_much_work_as_a_wrong_password(auth, monkeypatch):
    await auth.sign_up("ann")
    passwords, checked = auth.services.accounts._passwords, []
    matches = passwords._matches
    monkeypatch.setattr(
        passwords, "_matches", lambda known, given: checked.append(known) or matches(known, given)
    )
    for name in ("ann", "nobody"):
        await auth.post("/v1/login", user=name, password="wrong password", device="x")
    parameters = [known.rsplit("$", 2)[0] for known in checked]
    assert len(parameters) == 2
    assert parameters[0] == parameters[1]


async def test_passwords_and_tokens_are_stored_as_hashes_only(auth):
    ann = await auth.sign_up()
    assert (await auth.sql("select password_hash from users")).startswith("$argon2id$")
    dump = await auth.sql("select string_agg(t::text, ' ') from refresh_tokens t")
    assert ann.refresh not in dump
    assert ann.refresh.encode().hex() not in dump


async def test_a_hash_of_weaker_parameters_is_renewed_at_login(auth, monkeypatch):
    await auth.sign_up()
    before = await auth.sql("select password_hash from users")
    monkeypatch.setattr(auth.services.accounts._passwords, "is_outdated", lambda known: known == before)
    await auth.log_in()
    assert await auth.sql("select password_hash from users") != before
    await auth.log_in()


async def test_refresh_gives_the_next_token_and_a_working_access_token(auth):
    ann = await auth.sign_up()
    first = ann.refresh
    answer = await auth.post("/v1/refresh", refresh_token=first)
    assert answer.status_code == 200
    assert answer.json()["refresh_token"] != first
    ann.take(answer.json())
    assert await ann.is_in()
    ann.take((await auth.post("/v1/refresh", refresh_token=ann.refresh)).json())
    assert await ann.is_in()


async def test_a_refresh_token_used_twice_ends_its_family_and_no_other(auth):
    ann, other = await auth.sign_up(), await auth.log_in(device="phone")
    stolen = ann.refresh
    ann.take((await auth.post("/v1/refresh", refresh_token=stolen)).json())
    assert (await auth.post("/v1/refresh", refresh_token=stolen)).status_code == 401
    assert (await auth.post("/v1/refresh", refresh_token=ann.refresh)).status_code == 401
    assert not await ann.is_in()
    assert await other.is_in()
    assert (await auth.post("/v1/refresh", refresh_token=other.refresh)).status_code == 200
    assert await auth.sql("select end_reason from families where ended_at is not null") == "reuse"


def chosen_token() -> str:
    return secrets.token_urlsafe(32)


async def test_a_refresh_can_be_asked_for_again_by_who_chose_the_next_token(auth):
    ann, chosen = await auth.sign_up(), chosen_token()
    trade = {"refresh_token": ann.refresh, "next_token": chosen}
    answers = [await auth.post("/v1/refresh", **trade) for _ in range(3)]
    answers += await asyncio.gather(*(auth.post("/v1/refresh", **trade) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["refresh_token"] for answer in answers} == {chosen}
    ann.take(answers[-1].json())
    assert await ann.is_in()
    assert (await auth.post("/v1/refresh", refresh_token=chosen)).status_code == 200
    assert chosen not in await auth.sql("select string_agg(t::text, ' ') from refresh_tokens t")


async def test_a_thief_of_a_spent_token_is_found_out_whatever_next_one_he_chooses(auth):
    ann, chosen = await auth.sign_up(), chosen_token()
    ann.take((await auth.post("/v1/refresh", refresh_token=ann.refresh, next_token=chosen)).json())
    stolen = await auth.log_in(device="phone")
    spent = stolen.refresh
    await auth.post("/v1/refresh", refresh_token=spent, next_token=chosen_token())
    for following in (chosen_token(), chosen, ""):
        answer = await auth.post("/v1/refresh", refresh_token=spent, next_token=following)
        assert answer.status_code == 401
    assert await auth.sql("select end_reason from families where ended_at is not null") == "reuse"
    assert await ann.is_in(), "another device's token was named, and is none the worse for it"


async def test_a_trade_is_over_once_what_it_gave_has_been_used(auth):
    ann, chosen = await auth.sign_up(), chosen_token()
    spent = ann.refresh
    await auth.post("/v1/refresh", refresh_token=spent, next_token=chosen)
    ann.take((await auth.post("/v1/refresh", refresh_token=chosen, next_token=chosen_token())).json())
    assert (await auth.post("/v1/refresh", refresh_token=spent, next_token=chosen)).status_code == 401
    assert not await ann.is_in()


@pytest.mark.parametrize("chosen", ["short", "x" * 42, "x" * 44, "x" * 42 + "!", "x" * 43 + "\n"])
async def test_a_next_token_that_could_be_guessed_or_is_none_is_refused(auth, chosen):
    ann = await auth.sign_up()
    assert (await auth.post("/v1/refresh", refresh_token=ann.refresh, next_token=chosen)).status_code == 400
    assert (await auth.post("/v1/refresh", refresh_token=ann.refresh)).status_code == 200


async def test_one_refresh_token_used_by_two_at_once_gives_at_most_one_a_sign_in_that_ends(auth):
    ann = await auth.sign_up()
    answers = await asyncio.gather(*(auth.post("/v1/refresh", refresh_token=ann.refresh) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 4
    assert not await ann.is_in()


async def test_unknown_and_expired_refresh_tokens_are_refused_alike(auth):
    ann = await auth.sign_up()
    await auth.sql("update refresh_tokens set expires_at = now() - interval '1 second'")
    bodies = [
        (await auth.post("/v1/refresh", refresh_token=token)).content for token in (ann.refresh, "", "x")
    ]
    assert set(bodies) == {b'{"code":"UNAUTHORIZED","message":"a valid token is required"}'}
    assert await ann.is_in()


async def test_logout_ends_this_sign_in_only(auth):
    ann, again = await auth.sign_up(), await auth.log_in()
    assert (await ann.request("POST", "/v1/logout")).status_code == 200
    assert not await ann.is_in()
    assert (await auth.post("/v1/refresh", refresh_token=ann.refresh)).status_code == 401
    assert await again.is_in()


async def test_an_access_token_ends_with_its_time(start_auth):
    auth = await start_auth()
    ann = await auth.sign_up()
    object.__setattr__(auth.services, "now_s", lambda: time.time() + ACCESS_LIFE_S + 10)
    assert not await ann.is_in()


async def test_a_disabled_user_is_out_at_once(auth):
    ann = await auth.sign_up()
    await auth.sql("update users set disabled_at = now()")
    assert not await ann.is_in()
    assert (await auth.post("/v1/refresh", refresh_token=ann.refresh)).status_code == 401


async def test_a_devices_oldest_sign_in_ends_when_it_has_too_many(auth):
    first = await auth.sign_up()
    others = [await auth.log_in() for _ in range(MAX_FAMILIES)]
    assert not await first.is_in()
    assert await others[0].is_in()


async def test_guessing_is_slowed_down_and_the_right_password_is_not(auth):
    await auth.sign_up("ann")
    for _ in range(30):
        await auth.log_in("ann")
    wrong = {"user": "ann", "password": "wrong password", "device": "x"}
    answers = [await auth.post("/v1/login", **wrong) for _ in range(12)]
    assert [answer.status_code for answer in answers[:10]] == [401] * 10
    assert [answer.status_code for answer in answers[10:]] == [429] * 2
    assert answers[10].json()["code"] == "BUSY"
    assert 0 < int(answers[10].headers["retry-after"]) <= 7
    await auth.sign_up("bob")
    await auth.log_in("bob")


async def test_absent_users_are_slowed_down_alike(auth):
    wrong = {"user": "nobody", "password": "wrong password", "device": "x"}
    answers = [await auth.post("/v1/login", **wrong) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429]


async def test_sign_up_may_be_closed(start_auth):
    auth = await start_auth(sign_up="closed")
    answer = await auth.post("/v1/signup", user="ann", password=PASSWORD)
    assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
    assert "operator" in answer.json()["message"]


async def test_sign_up_may_ask_for_an_invite(start_auth, tmp_path):
    invite = tmp_path / "invite"
    invite.touch(0o600)
    invite.write_text("i" * 32)
    auth = await start_auth(sign_up="invite", invite_file=invite)
    for wrong in ({}, {"invite": ""}, {"invite": "x" * 32}):
        assert (await auth.post("/v1/signup", user="ann", password=PASSWORD, **wrong)).status_code == 403
    assert (await auth.post("/v1/signup", user="ann", password=PASSWORD, invite="i" * 32)).status_code == 201


async def test_sweeping_removes_what_has_expired_and_nothing_else(auth):
    ann, bob = await auth.sign_up("ann"), await auth.sign_up("bob")
    await auth.sql(
        "update refresh_tokens set expires_at = now() - interval '2 days' where family_id ="
        " (select f.id from families f join devices d on d.id = f.device_id where d.user_id = $1)",
        ann.id,
    )
    await auth.sql("update families set created_at = now() - interval '40 days'")
    await sweep(auth.services.pool)
    assert await auth.sql("select count(*) from families") == 1
    assert not await ann.is_in()
    assert await bob.is_in()
    assert (await auth.post("/v1/refresh", refresh_token=bob.refresh)).status_code == 200
