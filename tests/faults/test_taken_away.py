"""A right that is taken away ends on a real mount within seconds, wherever bytes and names may be cached."""

import itertools
import math
import os
import time
from pathlib import Path

import pytest

from tests.fixtures.cluster import Mount, wait_until
from tests.fixtures.sharing import Sharer
from tests.fixtures.witness import BELOW, LARGE, NOTE, SEEN, Witness

ENDS_WITHIN_S = 5.0
WARM_S = 2.0
AFTERWARDS_S = 2.0  # nothing may work again
GONE = ("replica.sqlite3", "replica.sqlite3-wal", "replica.sqlite3-shm", "journal", "spill", "blocks")
READS = ("descriptor", "path", "fresh")
USES = (*READS, "stat", "fstat", "list", "open folder", "open folder below")


@pytest.fixture
def ann(cluster):
    return Sharer(cluster, "ann")


@pytest.fixture
def bob(cluster):
    return Sharer(cluster, "bob")


def fill(folder: Path) -> None:
    (folder / SEEN).write_bytes(b"seen before" * 1000)
    (folder / LARGE).write_bytes(os.urandom(4 << 20))
    (folder / BELOW).mkdir()
    (folder / BELOW / "file").write_bytes(b"below")


def prepare(mount: Mount) -> None:
    """Something in a folder to be given, and something beside it."""
    (mount / "given").mkdir()
    (mount / "given" / "deeper").mkdir()
    fill(mount.path)
    fill(mount / "given")
    mount.sync()


def let_go(theirs: Mount, witness: Witness, deleted_at: float) -> dict[str, float]:
    """After the end of a right: how long each use still worked, having checked that all fail with EACCES."""
    wait_until(lambda: "right to this space" in "".join(theirs.status()["degraded"]), 8, "the mount lets go")
    time.sleep(AFTERWARDS_S)
    told = witness.end()
    lasted = {name: use["last_at"] - deleted_at for name, use in told.items()}
    assert not [name for name, use in told.items() if use["stuck"]], told
    assert all(use["count"] > 3 for use in told.values()), told
    assert max(lasted.values()) < ENDS_WITHIN_S, told
    for name, use in told.items():
        assert "EACCES" in use["errors"], (name, use)
        assert set(use["errors"]) <= {"EACCES", "EROFS"}, (name, use)
    return lasted


def left_in(cache: Path) -> list[str]:
    return [name for name in GONE if (cache / name).exists()]


def recovered(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "recovery").rglob("*") if path.is_file())


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.soak)])
@pytest.mark.parametrize("fuse", ["pyfuse3", "direct"])
def test_all_of_a_grant_ends_within_seconds_each_time(rounds, fuse, ann, bob):
    mine = ann.mount()
    prepare(mine)
    lasted: list[dict[str, float]] = []
    for _ in range(rounds):
        grant = ann.give(mine, "given", bob)
        theirs = bob.mount("--grant", grant, "-o", f"fuse={fuse}")
        witness = Witness(theirs.path)
        time.sleep(WARM_S)
        deleted_at = ann.end(f"/v1/grants/{grant}")
        lasted.append(let_go(theirs, witness, deleted_at))
        assert left_in(theirs.cache) == []
        assert recovered(theirs.cache) == []  # nothing was written
        theirs.umount(within_s=10)
    print(f"\nlast success after the DELETE, in seconds, of {rounds} rounds:")
    for name in USES:
        times = sorted(each[name] for each in lasted)
        p99 = times[math.ceil(len(times) * 0.99) - 1]
        print(f"  {name:12} median {times[len(times) // 2]:5.2f}  p99 {p99:5.2f}")


def ends_of(kind: str, ann: Sharer, bob: Sharer) -> tuple[Mount, str]:
    """A mount of bob's that may write, and the path that ends its right with DELETE."""
    mine = ann.mount()
    prepare(mine)
    if kind == "grant":
        grant = ann.give(mine, "given", bob, rw=True)
        mine.umount()
        return bob.mount("--grant", grant), f"/v1/grants/{grant}"
    if kind == "member":
        ann.ask("POST", f"/v1/spaces/{ann.space}/members", user=bob.name, role="editor")
        mine.umount()
        return bob.mount("--space", ann.space), f"/v1/spaces/{ann.space}/members/{bob.name}"
    theirs = bob.mount()
    fill(theirs.path)
    theirs.sync()
    return theirs, f"/v1/devices/{bob.device}"


def take_away(kind: str, ann: Sharer, bob: Sharer, path: str) -> float:
    if kind == "user":
        ann.cluster.sql("update auth.users set admin = true where name = $1", ann.name)
        at = time.time()
        ann.ask("PATCH", f"/v1/admin/users/{bob.name}", disabled=True)
        return at
    return (bob if kind == "device" else ann).end(path)


@pytest.mark.parametrize("kind", ["grant", "member", "device", "user"])
def test_unshipped_work_is_kept_for_its_author_and_all_else_goes(kind, ann, bob):
    theirs, path = ends_of(kind, ann, bob)
    witness = Witness(theirs.path, "work")
    time.sleep(WARM_S)
    deleted_at = take_away(kind, ann, bob, path)
    lasted = let_go(theirs, witness, deleted_at)
    print(kind, {name: round(seconds, 2) for name, seconds in lasted.items()})
    assert left_in(theirs.cache) == []
    assert "kept in" in "".join(theirs.status()["degraded"])
    assert any(path.name == "changes.jsonl" for path in recovered(theirs.cache))
    started = time.monotonic()
    theirs.umount(within_s=10)
    assert time.monotonic() - started < 5
    written = witness.told
    kept = {path.name: path.read_bytes() for path in recovered(theirs.cache) if "files" in path.parts}
    stored = stored_by(kind, ann, bob)
    for number in range(written["note"]["count"]):
        text = NOTE.format(number=number).encode()
        assert text in (stored.get(f"work-{number}"), kept.get(f"work-{number}")), number
    check_nothing_lost(written["write"]["count"], stored.get("work", b""), kept.get("work", b""))


def stored_by(kind: str, ann: Sharer, bob: Sharer) -> dict[str, bytes]:
    """What reached the servers, seen by whoever still may."""
    if kind == "user":
        ann.ask("PATCH", f"/v1/admin/users/{bob.name}", disabled=False)
    if kind in ("device", "user"):
        bob.sign_in()
    who = ann if kind in ("grant", "member") else bob
    mount = who.mount()
    folder = mount / "given" if kind == "grant" else mount.path
    found = {path.name: path.read_bytes() for path in folder.glob("work*")}
    mount.umount()
    return found


def check_nothing_lost(count: int, stored: bytes, kept: bytes) -> None:
    """Each line of a file that stayed open is on the servers or in the recovery folder."""
    for number in range(count):
        line = b"%015d\n" % number
        here = slice(number * len(line), (number + 1) * len(line))
        assert line in (stored[here], kept[here]), number


def test_who_keeps_his_right_notices_nothing(ann, bob, cluster):
    cy, dan = Sharer(cluster, "cy"), Sharer(cluster, "dan")
    team = ann.team(editor=cy)
    theirs = cy.mount("--space", team)
    prepare(theirs)
    granted = ann.ask(
        "POST", "/v1/grants", space=team, root=(theirs / "given").stat().st_ino, path="given", rw=False, to=dan.name
    )["id"]  # fmt: skip
    ended = ann.ask(
        "POST", "/v1/grants", space=team, root=(theirs / "given").stat().st_ino, path="given", rw=False, to=bob.name
    )["id"]  # fmt: skip
    reading, lost = dan.mount("--grant", granted), bob.mount("--grant", ended)
    writer, reader, loser = Witness(theirs.path, "work"), Witness(reading.path), Witness(lost.path)
    stop_at = time.monotonic() + 12
    time.sleep(WARM_S)
    let_go(lost, loser, ann.end(f"/v1/grants/{ended}"))
    for number in itertools.count():
        with open(theirs / f"upload{number}", "wb") as file:
            file.write(os.urandom(1 << 20))
            file.flush()
            os.fsync(file.fileno())
        if time.monotonic() > stop_at:
            break
    for told in (writer.end(), reader.end()):
        assert not [use for use in told.values() if use["errors"] or use["stuck"]], told
    assert theirs.status()["degraded"] == reading.status()["degraded"] == []


def test_a_mount_that_let_go_ends_and_its_folder_can_be_used_for_another_right(ann, bob):
    mine = ann.mount()
    prepare(mine)
    first = ann.give(mine, "given", bob)
    theirs = bob.mount("--grant", first)
    assert (theirs / SEEN).read_bytes() == b"seen before" * 1000
    ann.end(f"/v1/grants/{first}")
    wait_until(lambda: "right to this space" in "".join(theirs.status()["degraded"]), 8, "the mount lets go")
    with pytest.raises(PermissionError):
        (theirs / SEEN).read_bytes()
    theirs.umount(within_s=10)
    second = bob.mount("--grant", ann.give(mine, "given", bob))
    assert (second / SEEN).read_bytes() == b"seen before" * 1000
