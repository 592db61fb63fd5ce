"""Changing a password: ends every other sign-in, and guesses at the old one are slow."""

import asyncio

import pytest

pytestmark = pytest.mark.anyio

OLD, NEW = "correct horse battery", "battery staple correct"


async def change(user, old=OLD, new=NEW):
    return await user.ask("POST", "/v1/password", old=old, new=new)


async def test_the_new_one_signs_in_and_the_old_one_does_not(auth):
    ann = await auth.sign_up()
    assert (await change(ann)).status_code == 200
    assert (await auth.post("/v1/login", user="ann", password=OLD)).status_code == 401
    await auth.log_in(password=NEW)


async def test_all_other_sign_ins_of_the_user_end_and_no_others(auth):
    ann, bob = await auth.sign_up("ann"), await auth.sign_up("bob")
    others = [await auth.log_in("ann", "laptop"), await auth.log_in("ann", "phone")]
    await change(ann)
    assert [await user.is_in() for user in (ann, *others, bob)] == [True, False, False, True]
    assert (await auth.post("/v1/refresh", refresh_token=others[1].refresh)).status_code == 401
    assert (await auth.post("/v1/refresh", refresh_token=ann.refresh)).status_code == 200
    assert len(await ann.get("/v1/devices")) == 2


async def test_a_wrong_old_one_changes_nothing(auth):
    ann, phone = await auth.sign_up(), await auth.log_in(device="phone")
    answer = await change(ann, old="wrong password")
    assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
    assert await phone.is_in()
    await auth.log_in(password=OLD)
    assert (await change(ann, new="short")).status_code == 400


async def test_guesses_at_the_old_one_are_limited_with_those_at_login(auth):
    ann = await auth.sign_up()
    for _ in range(5):
        await auth.post("/v1/login", user="ann", password="wrong password")
    answers = [await change(ann, old="wrong password") for _ in range(7)]
    assert [answer.status_code for answer in answers] == [403] * 5 + [429] * 2
    assert (await auth.post("/v1/login", user="ann", password=OLD)).status_code == 429


async def test_checking_the_old_one_is_the_same_work_for_a_user_who_was_just_disabled(auth, monkeypatch):
    ann = await auth.sign_up()
    passwords, checked = auth.services.accounts._passwords, []
    matches = passwords._matches
    monkeypatch.setattr(
        passwords, "_matches", lambda known, given: checked.append(known) or matches(known, given)
    )
    wrong = await change(ann, old="wrong password")
    real = auth.services.accounts.change_password

    async def disabled_first(*arguments):
        await auth.sql("update users set disabled_at = now()")
        return await real(*arguments)

    monkeypatch.setattr(auth.services.accounts, "change_password", disabled_first)
    disabled = await change(ann)
    assert (disabled.status_code, disabled.content) == (wrong.status_code, wrong.content)
    parameters = [known.rsplit("$", 2)[0] for known in checked]
    assert len(parameters) == 2
    assert parameters[0] == parameters[1]


async def test_a_sign_in_with_the_old_one_that_was_under_way_does_not_outlive_the_change(auth, monkeypatch):
    ann = await auth.sign_up()
    passwords, checked, go = auth.services.accounts._passwords, asyncio.Event(), asyncio.Event()
    check = passwords.check

    async def slow(known, password):
        right = await check(known, password)
        checked.set()
        await go.wait()
        return right

    monkeypatch.setattr(passwords, "check", slow)
    late = asyncio.ensure_future(auth.post("/v1/login", user="ann", password=OLD, device="thief"))
    await checked.wait()
    monkeypatch.setattr(passwords, "check", check)
    assert (await change(ann)).status_code == 200
    go.set()
    assert (await late).status_code == 401
    assert [device["name"] for device in await ann.get("/v1/devices")] == ["laptop"]


async def test_two_sign_ins_that_renew_one_hash_both_succeed(auth, monkeypatch):
    await auth.sign_up()
    before = await auth.sql("select password_hash from users")
    monkeypatch.setattr(auth.services.accounts._passwords, "is_outdated", lambda known: known == before)
    await asyncio.gather(*(auth.log_in() for _ in range(6)))
