"""Public links, the log and the end of a space on a real cluster, with auth's real routes."""

import contextlib
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cloudverge_protocol.checksum import piece_crcs
from cloudverge_protocol.ids import InodeId
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.messages import (
    Append,
    AppendReply,
    Batch,
    BatchReply,
    ChunkAllocate,
    ChunkGrant,
    ChunkGrants,
    FrameType,
    SessionOpen,
    SessionReply,
)
from cloudverge_protocol.operations import Create, Entry, Write
from tests.fixtures.accounts import Person, sign_up
from tests.fixtures.cluster import Cluster, wait_until
from tests.fixtures.framecaller import calling

MIB = 1 << 20


@dataclass
class Space:
    """A space of somebody, and a file in it that looks 300 MiB long: one MiB of it is stored."""

    owner: Person
    id: int
    data: bytes
    grant: ChunkGrant
    ino: InodeId

    @property
    def size(self) -> int:
        return 300 * MIB

    def ask(
        self, person: Person, method: str, path: str, body: dict[str, Any] | None = None
    ) -> httpx.Response:
        """A request to auth."""
        headers = {"Authorization": f"Bearer {person.access_token}"}
        url = person.cluster.report["auth_url"] + path
        return httpx.request(method, url, json=body, headers=headers, timeout=20)

    def link(self, person: Person | None = None, **more: Any) -> tuple[int, str]:
        """A new link to the file: its id and where the metaserver has it."""
        giver = person or self.owner
        body = {"space": self.id, "ino": self.ino, "path": "folder/film.bin", **more}
        answer = self.ask(giver, "POST", "/v1/links", body)
        assert answer.status_code == 201, answer.text
        path = "/l/" + answer.json()["url"].partition("/l/")[2]
        return answer.json()["id"], giver.cluster.server("metaserver-1")["url"] + path

    def ticket(self, person: Person) -> str:
        answer = self.ask(person, "POST", "/v1/tickets", {"space": self.id})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["ticket"])

    def look(self, person: Person, route: str, **asked: Any) -> httpx.Response:
        """A question to the metaserver's HTTP."""
        headers = {"Authorization": f"Bearer {self.ticket(person)}"}
        url = person.cluster.server("metaserver-1")["url"] + route
        return httpx.get(url, params=asked, headers=headers, timeout=20)


def make_space(cluster: Cluster, owner: Person) -> Space:
    """A team space with /folder/film.bin in it."""
    headers = {"Authorization": f"Bearer {owner.access_token}"}
    made = httpx.post(
        cluster.report["auth_url"] + "/v1/spaces",
        json={"name": f"team-{secrets.token_hex(4)}"}, headers=headers, timeout=20,
    )  # fmt: skip
    assert made.status_code == 201, made.text
    space = made.json()["id"]
    data = secrets.token_bytes(MIB)
    with calling(cluster.address("metaserver-1"), _ticket(owner, space)) as meta:
        opened = meta.ask(FrameType.SESSION_OPEN, SessionOpen(space, secrets.token_bytes(16), "desk"))
        assert isinstance(opened, SessionReply), opened
        ref = (opened.session, opened.incarnation, opened.lease_epoch)
        grants = meta.ask(FrameType.CHUNK_ALLOCATE, ChunkAllocate(*ref))
        assert isinstance(grants, ChunkGrants), grants
        (grant,) = grants.grants
        receipts = _append(grant, data)
        first, now = opened.first_id, time.time_ns()
        folder, film = InodeId(first), InodeId(first + 1)
        extents = tuple(Extent(n * MIB, MIB, grant.chunk, 0) for n in range(64))
        ops = (
            Create(InodeId(1), b"folder", folder, first + 2, stat.S_IFDIR | 0o755, 0, 0, now),
            Create(folder, b"film.bin", film, first + 3, stat.S_IFREG | 0o600, 0, 0, now),
            Write(film, extents, 300 * MIB, now, now),
        )
        entries = tuple(Entry(opened.incarnation, n, op) for n, op in enumerate(ops, 1))
        reply = meta.ask(FrameType.BATCH, Batch(*ref, receipts, entries))
        assert isinstance(reply, BatchReply), reply
        assert not reply.refused_number, reply
    return Space(owner, space, data, grant, film)


def _ticket(person: Person, space: int) -> str:
    answer = person.post("/v1/tickets", {"space": space})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["ticket"])


def _append(grant: ChunkGrant, data: bytes) -> Any:
    first, *onward = grant.places
    crcs = tuple(piece_crcs(data, 0))
    request = Append(grant.ticket, grant.chunk, grant.epoch, 0, crcs, True, tuple(onward))
    with calling((first.host, first.port), grant.ticket) as server:
        reply = server.ask(FrameType.APPEND, request, data)
    assert isinstance(reply, AppendReply), reply
    return reply.receipts


@pytest.fixture
def ann(cluster: Cluster) -> Person:
    return sign_up(cluster, "ann")


@pytest.fixture
def space(cluster: Cluster, ann: Person) -> Space:
    return make_space(cluster, ann)


@contextlib.contextmanager
def downloading(url: str) -> Iterator["Download"]:
    """A download that has begun."""
    with httpx.stream("GET", f"{url}/file", timeout=20) as answer:
        assert answer.status_code == 200
        yield Download(answer)


class Download:
    """Taken slowly."""

    def __init__(self, answer: httpx.Response) -> None:
        self._pieces = answer.iter_raw()
        self.size = len(next(self._pieces))

    def assert_is_cut(self) -> None:
        """What is on its way may still come, the end may not."""
        time.sleep(1.5)
        with pytest.raises(httpx.HTTPError):
            for piece in self._pieces:
                self.size += len(piece)
        assert self.size < 200 * MIB


def assert_ends(url: str) -> None:
    wait_until(lambda: httpx.get(url, timeout=20).status_code == 404, 5, "the link opens no more")


def test_a_link_shows_a_file_and_gives_its_bytes(space):
    _, url = space.link()
    page = httpx.get(url, timeout=20)
    assert (page.status_code, "film.bin" in page.text, "300.0 MiB" in page.text) == (200, True, True)
    part = httpx.get(f"{url}/file", headers={"range": f"bytes={MIB - 5}-{2 * MIB + 4}"}, timeout=20)
    assert part.status_code == 206
    assert part.content == space.data[-5:] + space.data + space.data[:5]
    whole = httpx.get(f"{url}/file", timeout=60)
    assert whole.content == space.data * 64 + bytes(236 * MIB)
    assert "filename*=UTF-8''film.bin" in whole.headers["content-disposition"]


def test_a_link_with_a_password_and_a_number_of_downloads_keeps_to_both(space):
    _, url = space.link(password="sesame", max_downloads=2)
    assert httpx.get(f"{url}/file", timeout=20).status_code == 401
    assert httpx.post(url, data={"password": "wrong"}, timeout=20).status_code == 403
    with httpx.Client(timeout=60) as browser:
        assert browser.post(url, data={"password": "sesame"}).status_code == 303
        assert "film.bin" in browser.get(url).text
        assert browser.get(f"{url}/file", headers={"range": "bytes=1-9"}).content == space.data[1:10]
        assert len(browser.get(f"{url}/file").content) == space.size
        assert browser.get(f"{url}/file").status_code == 404
    assert httpx.get(url, auth=("", "sesame"), timeout=20).status_code == 404


def test_a_revoked_link_opens_no_more_and_cuts_its_downloads(space):
    link, url = space.link()
    with downloading(url) as download:
        assert space.ask(space.owner, "DELETE", f"/v1/grants/{link}").status_code == 200
        download.assert_is_cut()
    assert_ends(url)


def test_a_link_ends_at_its_time(space):
    _, url = space.link(until=int(time.time()) + 3)
    with downloading(url) as download:
        time.sleep(2)
        download.assert_is_cut()
    assert_ends(url)


def test_a_link_ends_with_the_membership_of_who_gave_it(cluster, space):
    bob = sign_up(cluster, "bob")
    members = f"/v1/spaces/{space.id}/members"
    joined = space.ask(space.owner, "POST", members, {"user": bob.name, "role": "editor"})
    assert joined.status_code == 201, joined.text
    _, url = space.link(bob)
    _, other = space.link()
    with downloading(url) as download, downloading(other) as going_on:
        assert space.ask(space.owner, "DELETE", f"{members}/{bob.name}").status_code == 200
        download.assert_is_cut()
        assert going_on.size + sum(map(len, going_on._pieces)) == space.size
    assert_ends(url)
    assert httpx.get(other, timeout=20).status_code == 200


def test_a_deleted_space_ends_its_links_and_leaves_nothing_behind(cluster, space):
    _, url = space.link()
    chunk = space.grant.chunk
    folders = [Path(server["data_dir"]) for server in cluster.report["servers"] if "data_dir" in server]
    files = [path for folder in folders or [cluster.home] for path in folder.rglob(f"{chunk:016x}.*")]
    assert files
    with downloading(url) as download:
        assert space.ask(space.owner, "DELETE", f"/v1/spaces/{space.id}").status_code == 200
        download.assert_is_cut()
    assert_ends(url)
    purged = "select 1 from auth.spaces where id = $1 and purged_at is not null"
    wait_until(lambda: cluster.sql(purged, space.id), 20, "auth is told that it is purged")
    for table in ("inodes", "dentries", "extents", "oplog", "audit", "sessions"):
        assert cluster.sql(f"select 1 from meta.{table} where space = $1 limit 1", space.id) == []
    wait_until(lambda: not any(path.exists() for path in files), 60, "the replicas are removed")


def test_the_log_names_who_did_it_and_a_path_is_found(cluster, space):
    found = space.look(space.owner, "/v1/path", path="folder/film.bin").json()
    assert (found["ino"], found["kind"], found["size"]) == (space.ino, "file", space.size)
    assert [step["name"] for step in found["chain"]] == ["", "folder", "film.bin"]

    def told() -> list[dict[str, Any]]:
        page = space.look(space.owner, "/v1/log", ino=1, below=True).json()
        assert page["intact"]
        return list(page["entries"])

    wait_until(told, 15, "the log is told")
    newest = told()[0]
    assert (newest["action"], newest["path"], newest["user"]) == (
        "created",
        "folder/film.bin",
        space.owner.name,
    )
    assert newest["device"] == "desk"
    bob = sign_up(cluster, "bob")
    body = {"user": bob.name, "role": "reader"}
    space.ask(space.owner, "POST", f"/v1/spaces/{space.id}/members", body)
    assert space.look(bob, "/v1/log").status_code == 403
    assert space.look(bob, "/v1/path", path="folder").status_code == 200


def test_a_link_goes_on_while_a_chunkserver_is_dead(cluster, space):
    _, url = space.link()
    holders = {place.port for place in space.grant.places}
    name = next(n for n in cluster.chunkservers() if cluster.address(n)[1] in holders)
    cluster.kill(name)
    try:
        part = httpx.get(f"{url}/file", headers={"range": f"bytes=0-{4 * MIB - 1}"}, timeout=30)
        assert part.content == space.data * 4
    finally:
        cluster.up()


def test_no_log_of_any_server_holds_a_secret_or_a_password(cluster, space):
    _, url = space.link(password="sesame-street")
    secret = url.rpartition("/")[2]
    httpx.get(url, timeout=20)
    httpx.post(url, data={"password": "sesame-street"}, timeout=20)
    httpx.get(f"{url}/file", auth=("", "sesame-street"), headers={"range": "bytes=0-9"}, timeout=20)
    for server in cluster.report["servers"]:
        said = cluster.log(server["name"])
        assert secret not in said
        assert "sesame-street" not in said
