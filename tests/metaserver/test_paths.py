"""Paths are looked up from the root of what the caller may see; nothing outside exists."""

import stat

import pytest

from cloudverge_metaserver.paths import Paths
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.operations import Rename

pytestmark = pytest.mark.anyio

FOLDER = stat.S_IFDIR | 0o755


@pytest.fixture
def paths(world) -> Paths:
    return Paths(world.database)


@pytest.fixture
async def tree(mount) -> dict[str, int]:
    """/photos/2026/a.jpg, /photos/link, /secret and a name that is no UTF-8; inodes by path."""
    photos = mount.create(1, b"photos", FOLDER)
    year = mount.create(photos.ino, b"2026", FOLDER)
    picture = mount.create(year.ino, b"a.jpg")
    link = mount.create(photos.ino, b"link", stat.S_IFLNK | 0o777, target=b"2026")
    secret, odd = mount.create(1, b"secret"), mount.create(1, b"odd\xff")
    await mount.do(photos, year, picture, link, secret, odd)
    return {
        "photos": photos.ino, "photos/2026": year.ino, "photos/2026/a.jpg": picture.ino,
        "photos/link": link.ino, "secret": secret.ino, "odd": odd.ino,
    }  # fmt: skip


async def refused(paths: Paths, who, path: str) -> tuple[Code, str]:
    with pytest.raises(CloudVergeError) as caught:
        await paths.find(who, path)
    return caught.value.code, caught.value.message


async def test_a_path_is_found_with_all_that_is_above_it(paths, mount, tree):
    found = await paths.find(mount.who, "photos/2026/a.jpg")
    assert (found.ino, found.kind, found.size) == (tree["photos/2026/a.jpg"], "file", 0)
    assert [(step.ino, step.name) for step in found.chain] == [
        (1, ""), (tree["photos"], "photos"), (tree["photos/2026"], "2026"), (found.ino, "a.jpg"),
    ]  # fmt: skip


async def test_the_root_and_odd_spellings_are_found(paths, mount, tree):
    for path in ("", "/", "./", "//./"):
        found = await paths.find(mount.who, path)
        assert (found.ino, found.kind, len(found.chain)) == (1, "folder", 1)
    assert (await paths.find(mount.who, "/photos//./2026/")).ino == tree["photos/2026"]


async def test_a_name_that_is_no_text_is_found_and_shown_escaped(paths, mount, tree):
    found = await paths.find(mount.who, "odd\udcff")
    assert (found.ino, found.chain[-1].name) == (tree["odd"], "odd\\xff")


async def test_what_does_not_exist_is_not_found(paths, mount, tree):
    for path in ("nothing", "photos/nothing/x", "secret/x", "photos/link/a.jpg", "x" * 300):
        assert (await refused(paths, mount.who, path))[0] == Code.NOT_FOUND


async def test_paths_that_lead_up_or_are_too_long_are_no_paths(paths, mount, tree):
    for path in ("photos/../secret", "..", "a/" * 3000, "a\0b"):
        assert (await refused(paths, mount.who, path))[0] == Code.BAD_REQUEST


async def test_who_is_confined_starts_at_his_root_and_sees_it_as_the_root(paths, mount, tree, make_identity):
    guest = make_identity(user=2, role="reader", grant=9, root=tree["photos/2026"])
    found = await paths.find(guest, "a.jpg")
    assert [(step.ino, step.name) for step in found.chain] == [(1, ""), (tree["photos/2026/a.jpg"], "a.jpg")]
    for path in ("photos", "secret", "2026", "photos/2026/a.jpg"):
        assert await refused(paths, guest, path) == await refused(paths, guest, "nowhere")


async def test_a_root_that_was_moved_is_the_same_root_and_one_that_is_gone_does_not_exist(
    paths, mount, tree, make_identity
):
    guest = make_identity(user=2, role="reader", grant=9, root=tree["photos/2026"])
    moved = Rename(
        tree["photos"], b"2026", 1, b"elsewhere", tree["photos/2026"], 0, 0, False, next(mount.ids), 0, 1
    )
    await mount.do(moved)
    assert (await paths.find(guest, "a.jpg")).ino == tree["photos/2026/a.jpg"]
    gone = make_identity(user=2, role="reader", grant=9, root=1 << 40)
    assert (await refused(paths, gone, ""))[0] == Code.NOT_FOUND


async def test_a_ticket_from_before_a_right_was_taken_away_finds_nothing(paths, world, mount, tree):
    await world.sql("update meta.spaces set membership_epoch = 5 returning 1")
    assert (await refused(paths, mount.who, "photos"))[0] == Code.UNAUTHORIZED


async def test_a_space_of_another_name_is_empty(paths, mount, tree, make_identity):
    assert (await refused(paths, make_identity(space=2), ""))[0] == Code.NOT_FOUND
