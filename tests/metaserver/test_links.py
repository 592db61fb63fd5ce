"""Public links on a running metaserver with real chunkservers; auth is a stand-in with a real HTTP listener."""

import asyncio
import itertools
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
import structlog

from cloudverge_metaserver import contents, download
from cloudverge_metaserver.gateway import COOKIE
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.operations import Create, Setattr, Truncate, Unlink, Write
from cloudverge_wire.logging import blank_secrets
from tests.fixtures.metamachine import JOIN_TOKEN, Machine, Running, running_machine, until
from tests.fixtures.standinauth import Link, StandInAuth, stand_in_auth

pytestmark = [pytest.mark.anyio, pytest.mark.faults]

MIB = 1 << 20


@pytest.fixture(scope="module")
async def auth(anyio_backend) -> AsyncIterator[StandInAuth]:
    async with stand_in_auth(JOIN_TOKEN) as made:
        yield made


@pytest.fixture(scope="module")
async def machine(auth, meta_database, make_world_on, tmp_path_factory) -> AsyncIterator[Machine]:
    world = await make_world_on(meta_database)
    folder = tmp_path_factory.mktemp("machine")
    try:
        async with running_machine(meta_database, world, folder, auth_url=auth.url, servers=2) as made:
            yield made
    finally:
        await world.database.close()


_spaces, _links = itertools.count(1), itertools.count(1)


@pytest.fixture
async def running(machine: Machine, auth, make_identity) -> AsyncIterator[Running]:
    await machine.all_up()
    auth.ended, auth.deleted, auth.attempts_left, auth.away = [], [], 10, False
    auth.opened.clear()
    space = next(_spaces)
    made = Running(machine, make_identity(space=space, user=space))
    await made.connect()
    await made.open()
    yield made
    made.client.close()


@pytest.fixture
async def browser(machine: Machine) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=machine.endpoints.http, timeout=20) as client:
        yield client


@pytest.fixture
def share(auth: StandInAuth, running: Running):
    """Makes a link to a file; returns its path."""

    def make(ino: int, **more) -> str:
        secret = secrets.token_urlsafe(24)
        auth.links[secret] = Link(next(_links), running.space, ino, **more)
        return f"/l/{secret}"

    return make


@pytest.fixture
async def small(running: Running) -> tuple[bytes, int]:
    data = os.urandom(200_000)
    _, ino = await running.stored_file(data)
    return data, ino


# --- pages ----------------------------------------------------------------------------------------------


async def test_a_link_shows_a_page_and_gives_the_file(browser, share, small):
    data, ino = small
    link = share(ino)
    page = await browser.get(link)
    assert page.status_code == 200
    assert "195.3 KiB (200,000 bytes)" in page.text
    (href,) = re.findall(r'href="([^"]+)"', page.text)
    answer = await browser.get(href)
    assert (answer.status_code, answer.content) == (200, data)
    assert answer.headers["content-length"] == "200000"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment; filename=")


async def test_pages_hold_nothing_that_runs_or_is_elsewhere(browser, share, small):
    for path in (share(small[1]), share(small[1], password="x"), "/l/" + "a" * 32):
        page = await browser.get(path)
        assert "<script" not in page.text
        assert "http" not in page.text
        assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["x-robots-tag"] == "noindex, nofollow"
        assert page.headers["cache-control"] == "no-store"
        assert '<html lang="en">' in page.text


async def test_head_answers_as_get_would_without_a_body(browser, share, small):
    link = share(small[1], left=1)
    for path in (link, f"{link}/file"):
        head = await browser.head(path)
        assert (head.status_code, head.content) == (200, b"")
        full = await browser.get(path)
        assert {**head.headers, "date": ""} == {**full.headers, "date": ""}


async def test_whatever_opens_nothing_looks_the_same(browser, auth, running, share, small):
    _, ino = small
    removed, ended, spent = share(ino + 1000), share(ino), share(ino, left=0)
    auth.ended.append(auth.links[ended[3:]].id)
    folder = share(1)
    paths = [
        "/l/" + secrets.token_urlsafe(24),
        "/l/short",
        "/l/",
        "/l/a/b/c",
        "/l/%2e%2e/v1/status",
        "/l/a%0Ab",
        "/l/%00",
    ]
    paths += [path + tail for path in (removed, ended, spent, folder) for tail in ("", "/file")]
    seen = {}
    for path in paths:
        answer = await browser.get(path)
        answer.headers.pop("date")
        seen[path] = (answer.status_code, answer.content, sorted(answer.headers.items()))
    assert len({str(each) for each in seen.values()}) == 1, seen
    assert seen["/l/short"][0] == 404


async def test_a_removed_file_opens_no_more(browser, running, share, small):
    _, ino = small
    link = share(ino)
    assert (await browser.get(link)).status_code == 200
    await running.do(Unlink(1, b"f%d" % ino, ino, True, 1))  # still open somewhere: an orphan
    assert (await browser.get(link)).status_code == 404
    assert (await browser.get(f"{link}/file")).status_code == 404


async def test_names_are_given_exactly_and_cannot_break_out(browser, auth, share, small, monkeypatch):
    name = 'a"b;\r\n<script>é\u202e.txt'
    monkeypatch.setattr(
        StandInAuth,
        "open",
        lambda self, body: {"id": 1, "space": self.links[body.secret].space, "ino": small[1], "name": name},
    )
    link = share(small[1])
    answer = await browser.get(f"{link}/file")
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"a_b;<script>_.txt\"; filename*=UTF-8''a%22b%3B%3Cscript%3E%C3%A9.txt"
    )
    assert "<script" not in (await browser.get(link)).text


async def test_auth_being_away_is_not_taken_for_an_ended_link(browser, auth, share, small):
    link = share(small[1])
    auth.away = True
    answer = await browser.get(link)
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)


# --- passwords ------------------------------------------------------------------------------------------


async def test_a_password_is_asked_for_by_a_form_and_kept_in_a_cookie(browser, share, small):
    data, ino = small
    link = share(ino, password="olé & more")
    page = await browser.get(link)
    assert page.status_code == 200
    assert '<label for="password">' in page.text
    assert "200,000" not in page.text
    assert (await browser.get(f"{link}/file")).status_code == 401
    wrong = await browser.post(link, data={"password": "no"})
    assert wrong.status_code == 403
    assert 'role="alert"' in wrong.text
    right = await browser.post(link, data={"password": "olé & more"})
    assert (right.status_code, right.headers["location"]) == (303, link)
    cookie = right.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", f"Path={link}"} <= {part.strip() for part in cookie.split(";")}
    assert "200,000" in (await browser.get(link)).text
    assert (await browser.get(f"{link}/file")).content == data


async def test_a_cookie_opens_no_other_link(browser, share, small):
    one, other = share(small[1], password="same"), share(small[1], password="same")
    cookie = (await browser.post(one, data={"password": "same"})).cookies[COOKIE]
    browser.cookies.clear()
    headers = {"cookie": f"{COOKIE}={cookie}"}
    assert (await browser.get(f"{one}/file", headers=headers)).status_code == 200
    assert (await browser.get(f"{other}/file", headers=headers)).status_code == 401
    for forged in (cookie[:-2] + "AA", "", "é", "A" * 5000):
        headers = {"cookie": f"{COOKIE}={forged}".encode()}
        assert (await browser.get(f"{one}/file", headers=headers)).status_code == 401


async def test_curl_gives_the_password_by_basic(browser, share, small):
    data, ino = small
    link = share(ino, password="pass:word")
    refused = await browser.get(f"{link}/file", auth=("anybody", "wrong"))
    assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic")
    assert (await browser.get(f"{link}/file", auth=("anybody", "pass:word"))).content == data


async def test_after_too_many_wrong_passwords_one_has_to_wait(browser, auth, share, small):
    link = share(small[1], password="x")
    auth.attempts_left = 1
    assert (await browser.post(link, data={"password": "no"})).status_code == 403
    assert (await browser.post(link, data={"password": "no"})).status_code == 429


async def test_a_strangers_body_is_small(browser, share, small):
    answer = await browser.post(share(small[1]), content=b"password=" + b"x" * 9000)
    assert answer.status_code == 413


# --- ranges and counting --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=0-99", 206, 0, 100),
        ("bytes=65530-131080", 206, 65530, 131081),
        ("bytes=199999-", 206, 199_999, 200_000),
        ("bytes=-1000", 206, 199_000, 200_000),
        ("bytes=-999999", 206, 0, 200_000),
        ("bytes=100-999999", 206, 100, 200_000),
        ("bytes=0-1,5-6", 200, 0, 200_000),
        ("lines=1-2", 200, 0, 200_000),
        ("bytes=9-3", 200, 0, 200_000),
        ("bytes=-", 200, 0, 200_000),
    ],
)
async def test_a_range_is_given_exactly(browser, share, small, asked, status, start, end):
    data, ino = small
    answer = await browser.get(share(ino) + "/file", headers={"range": asked})
    assert (answer.status_code, answer.content) == (status, data[start:end])
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/200000"


@pytest.mark.parametrize("asked", ["bytes=200000-", "bytes=-0", "bytes=9999999999999999999-"])
async def test_a_range_past_the_end_is_refused(browser, share, small, asked):
    answer = await browser.get(share(small[1]) + "/file", headers={"range": asked})
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */200000")


async def test_a_resumed_download_of_another_version_starts_anew(browser, running, share, small):
    data, ino = small
    link = share(ino) + "/file"
    etag = (await browser.get(link)).headers["etag"]
    headers = {"range": "bytes=1000-", "if-range": etag}
    assert (await browser.get(link, headers=headers)).content == data[1000:]
    assert (await browser.get(link, headers={"if-none-match": etag})).status_code == 304
    await running.do(Truncate(ino, 5000, 2))
    answer = await browser.get(link, headers=headers)
    assert (answer.status_code, answer.content) == (200, data[:5000])
    assert (await browser.get(link, headers={"if-match": etag})).status_code == 412


async def test_a_download_is_counted_when_it_starts_at_the_first_byte(browser, auth, share, small):
    data, ino = small
    link = share(ino, left=3)
    known = auth.links[link[3:]]
    await browser.get(f"{link}/file", headers={"range": "bytes=9999999-"})
    await browser.get(link)
    await browser.head(f"{link}/file")
    assert known.left == 3
    await browser.get(f"{link}/file", headers={"range": "bytes=1-"})
    assert known.left == 2, "who leaves out the first byte has downloaded it too"
    await browser.get(f"{link}/file", headers={"range": "bytes=5-"})
    assert known.left == 2, "what was begun is resumed"
    await browser.get(f"{link}/file", headers={"range": "bytes=0-0"})
    assert known.left == 1
    etag = (await browser.head(f"{link}/file")).headers["etag"]
    await browser.get(f"{link}/file", headers={"if-none-match": etag})
    assert known.left == 1
    assert (await browser.get(f"{link}/file")).content == data
    assert known.left == 0
    assert (await browser.get(f"{link}/file")).status_code == 404
    assert (await browser.get(link)).status_code == 404


# --- bytes ----------------------------------------------------------------------------------------------


async def test_holes_are_zeroes_and_many_extents_come_in_order(browser, running, share):
    data = os.urandom(3 * MIB + 17)
    grant = await running.allocate()
    appended = await running.append(grant, data)
    ino = running.id()
    pieces = [(64 * MIB - 500, 1000, 5), (70 * MIB, 3 * MIB, 17), (0, 10, 0), (300, 700, 100_000)]
    extents = [
        part for offset, length, at in sorted(pieces) for part in _by_region(offset, length, grant.chunk, at)
    ]
    size = 200 * MIB + 5
    await running.do(
        Create(1, b"holes", ino, running.id(), 0o100644, 0, 0, 1),
        Write(ino, tuple(extents), size, 1, 1),
        receipts=appended.receipts,
    )
    expected = bytearray(size)
    for offset, length, at in pieces:
        expected[offset : offset + length] = data[at : at + length]
    answer = await browser.get(share(ino) + "/file")
    assert answer.content == expected
    part = await browser.get(
        share(ino) + "/file", headers={"range": f"bytes={64 * MIB - 600}-{70 * MIB + 99}"}
    )
    assert part.content == expected[64 * MIB - 600 : 70 * MIB + 100]


def _by_region(offset: int, length: int, chunk: int, at: int) -> list[Extent]:
    edge = (offset // (64 * MIB) + 1) * 64 * MIB
    if offset + length <= edge:
        return [Extent(offset, length, chunk, at)]
    first = edge - offset
    return [Extent(offset, first, chunk, at), Extent(edge, length - first, chunk, at + first)]


async def test_a_server_that_is_gone_or_has_bad_bytes_is_passed_over(browser, running, share):
    data = os.urandom(2 * MIB)
    grant, ino = await running.stored_file(data)
    await running.seal(grant)
    first, second = (running.servers[place.server] for place in grant.places)
    (path,) = [each for each in first.files(grant.chunk) if each.stat().st_size >= len(data)]
    content = bytearray(path.read_bytes())
    content[MIB : MIB + 100] = bytes(100)
    path.write_bytes(content)
    assert (await browser.get(share(ino) + "/file")).content == data
    first.kill()
    assert (await browser.get(share(ino) + "/file")).content == data
    second.kill()
    with pytest.raises(httpx.HTTPError):
        await browser.get(share(ino) + "/file")


async def test_bytes_that_lie_about_their_checksum_are_not_sent_on(
    browser, running, share, small, monkeypatch
):
    def lie(data, offset):
        return [0]

    monkeypatch.setattr(contents, "piece_crcs", lie)
    with pytest.raises(httpx.HTTPError):
        await browser.get(share(small[1]) + "/file")


async def test_a_file_that_is_overwritten_while_it_is_sent_is_not_mixed(browser, running, share):
    link, ino = await _large(running, share)
    async with slow(browser, link) as got:
        await running.do(Truncate(ino, 0, 5), Truncate(ino, 150 * MIB, 6))
        with pytest.raises(httpx.HTTPError):
            await got.rest()
    assert got.whole(b"\x07")


async def test_a_change_of_rights_does_not_end_a_download(browser, running, share):
    link, ino = await _large(running, share)
    async with slow(browser, link) as got:
        await running.do(Setattr(ino, 5, mode=0o600))
        assert await got.rest() == 150 * MIB


# --- the end of a right ---------------------------------------------------------------------------------


class Slow:
    """A download of which a little has been taken."""

    def __init__(self, answer: httpx.Response) -> None:
        self._chunks = answer.aiter_raw()
        self.size = 0
        self.different: set[int] = set()

    async def take(self) -> None:
        chunk = await anext(self._chunks)
        self.size += len(chunk)
        self.different |= set(chunk)

    async def rest(self) -> int:
        try:
            while True:
                await self.take()
        except StopAsyncIteration:
            return self.size

    def whole(self, of: bytes) -> bool:
        return self.different == set(of)


@asynccontextmanager
async def slow(browser: httpx.AsyncClient, link: str):
    async with browser.stream("GET", f"{link}/file") as answer:
        assert answer.status_code == 200
        got = Slow(answer)
        await got.take()
        yield got


async def _large(running: Running, share) -> tuple[str, int]:
    """A file of 150 MiB, all of it the same byte, from one MiB stored."""
    grant = await running.allocate()
    appended = await running.append(grant, b"\x07" * MIB)
    ino = running.id()
    extents = tuple(Extent(n * MIB, MIB, grant.chunk, 0) for n in range(150))
    await running.do(
        Create(1, b"large%d" % ino, ino, running.id(), 0o100644, 0, 0, 1),
        Write(ino, extents, 150 * MIB, 1, 1),
        receipts=appended.receipts,
    )
    return share(ino), ino


async def _is_cut_within_2_s(got: Slow) -> None:
    await asyncio.sleep(1.5)
    began = time.monotonic()
    with pytest.raises(httpx.HTTPError):
        await got.rest()
    assert time.monotonic() - began < 1
    assert got.size < 100 * MIB


async def test_a_download_is_cut_when_its_link_is_ended(browser, auth, running, share):
    link, _ = await _large(running, share)
    async with slow(browser, link) as got:
        auth.ended.append(auth.links[link[3:]].id)
        await _is_cut_within_2_s(got)


async def test_a_download_is_cut_when_its_space_is_deleted(browser, auth, running, share):
    link, _ = await _large(running, share)
    async with slow(browser, link) as got:
        auth.deleted.append(running.space)
        await _is_cut_within_2_s(got)


async def test_a_download_is_cut_when_its_links_time_is_over(browser, running, share):
    link, ino = await _large(running, share)
    link = share(ino, until=time.time() + 1)
    async with slow(browser, link) as got:
        await _is_cut_within_2_s(got)
    assert (await browser.get(link)).status_code == 404


async def test_who_takes_nothing_is_cut_off_and_frees_his_place(browser, running, share, monkeypatch):
    monkeypatch.setattr(download, "STALLED_S", 0.5)
    link, _ = await _large(running, share)
    async with slow(browser, link) as got:
        await asyncio.sleep(1.5)
        with pytest.raises(httpx.HTTPError):
            await got.rest()


async def test_only_so_many_downloads_run_at_once_of_one_link_and_altogether(browser, running, share):
    link, ino = await _large(running, share)
    links = [link, *(share(ino) for _ in range(4))]
    async with AsyncExitStack() as streams:
        for each in links[:4]:
            for _ in range(16):
                stream = browser.stream("GET", f"{each}/file")
                assert (await streams.enter_async_context(stream)).status_code == 200
            busy = await browser.get(f"{each}/file")
            assert (busy.status_code, busy.headers["retry-after"]) == (503, "5")
        assert (await browser.get(f"{links[4]}/file")).status_code == 503
        assert (await browser.get(links[4])).status_code == 200

    async def free() -> bool:
        return (await browser.get(f"{link}/file", headers={"range": "bytes=1-2"})).status_code == 206

    await until(free, "places are free again")


@pytest.fixture
def logged_as_in_production() -> Iterator[None]:
    renderers = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(processors=[blank_secrets, *renderers])
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("logged_as_in_production")
async def test_neither_secret_nor_password_is_logged(
    browser, auth, running, share, small, capfd, caplog, monkeypatch
):
    link = share(small[1], password="the-password")
    await browser.get(link)
    await browser.post(link, data={"password": "the-password-not"})
    await browser.get(f"{link}/file", auth=("", "the-password"))
    auth.away = True
    await browser.get(link)
    auth.away = False

    async def bug(self, space, ino):
        raise RuntimeError("a bug")

    monkeypatch.setattr(contents.Contents, "find", bug)
    assert (await browser.get(f"{link}/file", auth=("", "the-password"))).status_code == 500
    said = "".join(capfd.readouterr()) + caplog.text
    assert link[3:] not in said
    assert "the-password" not in said
    assert "a bug" in said
