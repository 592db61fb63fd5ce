"""What mount options are to mount(2) and to fusermount3, and what is said when it cannot be."""

import os

import pytest

from cloudverge_mount.fuse import device
from cloudverge_mount.fuse.device import Cannot, mount, mount_call

RDONLY, NOSUID, NODEV, NOEXEC, NOATIME = 1, 2, 4, 8, 1024


def test_a_mount_takes_no_setuid_programs_and_devices_unless_asked_to():
    assert mount_call([]).flags == NOSUID | NODEV
    assert mount_call(["suid", "dev"]).flags == 0
    assert mount_call(["ro", "noexec", "noatime"]).flags == RDONLY | NOSUID | NODEV | NOEXEC | NOATIME


def test_source_and_type_are_named_as_asked():
    call = mount_call(["fsname=cloudverge:ann", "subtype=cloudverge"])
    assert (call.source, call.kind) == ("cloudverge:ann", "fuse.cloudverge")
    assert mount_call([])[:2] == ("fuse", "fuse")


def test_the_kernel_is_told_what_is_for_it_and_nothing_else():
    call = mount_call(["default_permissions", "allow_other", "fsname=x", "noexec"])
    assert call.data == "default_permissions,allow_other"
    assert mount_call(["allow_root"]).data == "allow_other", "the rest of it is ours to keep"
    assert mount_call(["allow_root", "allow_other"]).data == "allow_other"


def test_fusermount3_is_spared_the_option_it_does_not_know():
    assert device._for_helper(["allow_root", "nodev", "allow_other"]) == ["allow_other", "nodev"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts by itself")
def test_a_mountpoint_that_is_not_there_is_named_as_such(tmp_path):
    with pytest.raises(Cannot, match="No such file"):
        mount(tmp_path / "absent", [])


def test_without_fusermount3_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "HELPER", "fusermount3-that-is-not-there")
    with pytest.raises(Cannot, match="apt install fuse3"):
        device._ask_helper(tmp_path, [])
