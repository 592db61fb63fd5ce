"""Quotas on real mounts: told by df, refused before anything is accepted, shared by all spaces of an owner."""

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from tests.faults.test_sharing import Someone
from tests.fixtures.cluster import Mount

MIB = 1 << 20


@pytest.fixture
def ann(cluster):
    return Someone(cluster, "ann").enter()


def _set_quota(ann: Someone, *, owner_bytes: int = 0, space_bytes: int = 0, space_inodes: int = 0) -> None:
    """What an administrator would set."""
    sql = ann.cluster.sql
    sql("update auth.users set quota_bytes = $2 where name = $1", ann.name, owner_bytes)
    sql(
        "update auth.spaces set quota_bytes = $2, quota_inodes = $3 where name = $1",
        ann.name,
        space_bytes,
        space_inodes,
    )


def _fill(folder: Path, written: dict[Path, str]) -> None:
    """Write files of a MiB until the quota says no; what was accepted, by its hash."""
    for number in range(200):
        data = os.urandom(MIB)
        path = folder / f"{number:03}"
        try:
            path.write_bytes(data)
        except OSError as error:
            if error.errno != errno.EDQUOT:
                raise
            return
        written[path] = hashlib.sha256(data).hexdigest()
    raise AssertionError("no quota held")


def _assert_kept(mount: Mount, written: dict[Path, str]) -> None:
    mount.sync()
    assert not [reason for reason in mount.status()["degraded"] if "set aside" in reason]
    for path, digest in written.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, path


def test_a_full_space_refuses_what_is_new_and_keeps_what_it_accepted(ann):
    _set_quota(ann, space_bytes=20 * MIB, space_inodes=100)
    mount = ann.mount()
    room = os.statvfs(mount.path)
    assert room.f_frsize * room.f_blocks == 20 * MIB
    written: dict[Path, str] = {}
    _fill(mount.path, written)
    assert len(written) == 20
    _assert_kept(mount, written)
    assert os.statvfs(mount.path).f_bavail == 0
    (mount / "000").write_bytes(b"")
    (mount / "again").write_bytes(os.urandom(MIB // 2))
    for number in range(200):
        try:
            (mount / f"empty-{number}").touch()
        except OSError as error:
            if error.errno != errno.EDQUOT:
                raise
            break
    else:
        raise AssertionError("no quota of files held")
    mount.umount()


def test_spaces_of_one_owner_share_his_quota_and_accept_no_more_than_can_be_stored(ann):
    ann.cv("space", "create", f"team-{ann.name}")
    _set_quota(ann, owner_bytes=48 * MIB)
    mounts = [ann.mount(), ann.mount("--space", f"team-{ann.name}")]
    accepted: list[dict[Path, str]] = [{}, {}]
    fillers = [
        threading.Thread(target=_fill, args=(mount.path, written))
        for mount, written in zip(mounts, accepted, strict=True)
    ]
    for filler in fillers:
        filler.start()
    for filler in fillers:
        filler.join(100)
    for mount, written in zip(mounts, accepted, strict=True):
        _assert_kept(mount, written)
    total = sum(map(len, accepted))
    assert 24 <= total <= 48, total
    for mount in mounts:
        mount.umount()
