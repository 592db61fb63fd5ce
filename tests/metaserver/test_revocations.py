"""What ended lately is learned from auth within a second, kept as long as it matters, and handed on until heard."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cloudverge_metaserver import revocations as module
from cloudverge_metaserver.authority import Authority
from cloudverge_metaserver.revocations import Revocations
from cloudverge_protocol.errors import Code, Denied, Refused, Unavailable
from tests.fixtures.metamachine import JOIN_TOKEN, until
from tests.fixtures.standinauth import Link, StandInAuth, stand_in_auth

pytestmark = pytest.mark.anyio


@pytest.fixture
async def auth(anyio_backend) -> AsyncIterator[StandInAuth]:
    async with stand_in_auth(JOIN_TOKEN) as made:
        yield made


@pytest.fixture
async def authority(auth) -> AsyncIterator[Authority]:
    made = Authority(auth.url, JOIN_TOKEN)
    yield made
    await made.close()


@pytest.fixture
async def known(authority) -> AsyncIterator[Revocations]:
    """One that polls."""
    made = Revocations(authority)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_raised_epoch_and_an_ended_link_are_known_within_a_second(auth, known):
    await until(lambda: auth.polls, "it polls")
    auth.spaces, auth.ended = {7: 3}, [11]
    await until(lambda: known.epoch_of(7) == 3 and known.ended(11, 7), "they are known", 1.5)
    assert known.epoch_of(8) == 0
    assert not known.ended(12, 7)


async def test_links_of_a_deleted_space_have_ended(auth, known):
    auth.deleted = [7]
    await until(lambda: known.ended(12, 7), "it is known")
    assert not known.ended(12, 8)


async def test_an_epoch_never_goes_back(auth, known):
    auth.spaces = {7: 3}
    await until(lambda: known.epoch_of(7) == 3, "it is known")
    auth.spaces = {7: 2}
    polls = auth.polls
    await until(lambda: auth.polls >= polls + 2, "it polls on")
    assert known.epoch_of(7) == 3


async def test_what_is_learned_is_handed_on_once_and_again_until_it_was_heard(auth, known, monkeypatch):
    monkeypatch.setattr(module, "TELL_AGAIN_S", 0.01)
    heard, failures = [], [Unavailable(Code.UNAVAILABLE), RuntimeError("a bug")]

    async def listen(raised):
        if failures:
            raise failures.pop()
        heard.append(raised)

    known.on_raised.append(listen)
    auth.spaces = {7: 3}
    await until(lambda: heard, "it was heard")
    polls = auth.polls
    await until(lambda: auth.polls >= polls + 2, "it polls on")
    assert heard == [{7: 3}]
    auth.spaces = {7: 4, 8: 1}
    await until(lambda: len(heard) == 2, "it was heard")
    assert heard[1] == {7: 4, 8: 1}


async def test_a_listener_that_hangs_delays_neither_polls_nor_what_is_known(auth, known):
    async def hang(raised):
        await asyncio.sleep(60)

    known.on_raised.append(hang)
    auth.spaces = {7: 3}
    await until(lambda: known.epoch_of(7) == 3, "it is known")
    auth.spaces = {7: 4}
    await until(lambda: known.epoch_of(7) == 4, "it is known", 2)


async def test_while_auth_is_away_what_is_known_stays_known(auth, known):
    auth.spaces = {7: 3}
    await until(lambda: known.epoch_of(7) == 3, "it is known")
    auth.away = True
    at = known.learned_at_s
    await asyncio.sleep(1.2)
    assert known.epoch_of(7) == 3
    assert known.learned_at_s - at < 0.7
    auth.away = False
    await until(lambda: known.learned_at_s - at > 1, "it polls again")


async def test_what_auth_lists_no_longer_is_forgotten_when_its_tickets_have_run_out(
    auth, authority, monkeypatch
):
    monkeypatch.setattr(module, "KEEP_S", 0.2)
    known = Revocations(authority)
    auth.spaces, auth.ended = {7: 3}, [11]
    await known.poll()
    auth.spaces, auth.ended = {}, []
    await known.poll()
    assert (known.epoch_of(7), known.ended(11, 7)) == (3, True)
    await asyncio.sleep(0.3)
    await known.poll()
    assert (known.epoch_of(7), known.ended(11, 7)) == (0, False)


async def test_a_link_is_opened_or_refused_in_auths_words(auth, authority):
    auth.links = {"s3cret": Link(5, 7, 1024, password="pass"), "last": Link(6, 7, 1025, left=1)}
    opened = await authority.open_link("s3cret", "pass", "127.0.0.1", count=False)
    assert (opened.id, opened.space, opened.ino) == (5, 7, 1024)
    with pytest.raises(Denied) as denied:
        await authority.open_link("s3cret", "", "127.0.0.1", count=True)
    assert denied.value.code == Code.FORBIDDEN
    await authority.open_link("last", "", "127.0.0.1", count=True)
    with pytest.raises(Refused) as refused:
        await authority.open_link("last", "", "127.0.0.1", count=True)
    assert refused.value.code == Code.NOT_FOUND


async def test_that_auth_does_not_know_this_server_is_no_word_about_a_link(auth):
    authority = Authority(auth.url, "another" * 6)
    with pytest.raises(Unavailable):
        await authority.open_link("s3cret", "", "127.0.0.1", count=False)
    await authority.close()


async def test_auth_that_cannot_be_reached_is_unavailable_and_names_no_secret(auth):
    authority = Authority("http://127.0.0.1:9", JOIN_TOKEN)
    with pytest.raises(Unavailable) as caught:
        await authority.open_link("s3cret", "pass", "127.0.0.1", count=False)
    assert "s3cret" not in caught.value.message
    await authority.close()
