"""Two people on one machine, with configuration and cache folders of their own, share through the command line.

Everything goes through the installed programs and a real cluster: signing up, mounting by profile, teams, grants,
machines, links, and what ``cv who``, ``why`` and ``log`` tell of it.
"""

import json
import os
import secrets
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from tests.fixtures.cluster import Cluster, Mount, program, try_program, wait_until

PASSWORD = "a long enough password"
TOLD_WITHIN_S = 15.0  # a log is told a moment after what it tells


class Someone:
    """A user with folders of his own: what another account, or another machine, would be."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, f"{name}{secrets.token_hex(3)}"
        self.home = cluster.new_path("home")
        self.home.mkdir()
        self.environment = os.environ | {
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_CACHE_HOME": str(self.home / "cache"),
        }
        self.environment.pop("CLOUDVERGE_DATA_DIR", None)

    def cv(self, *words: object, stdin: str = "") -> str:
        """A verb that must succeed; its stdout."""
        return program("cv", *words, env=self.environment, input=stdin)

    def refused(self, *words: object, stdin: str = "") -> str:
        """A verb that must exit with 1 and one line; the line."""
        done = try_program("cv", *words, env=self.environment, input=stdin)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def json(self, *words: object):
        return json.loads(self.cv(*words, "--json"))

    def enter(self, verb: str = "signup") -> "Someone":
        url = self.cluster.report["auth_url"]
        words = ("--server", url, "--user", self.name, "--device", self.home.name, "--password-stdin")
        self.cv(verb, *words, stdin=f"{PASSWORD}\n")
        return self

    def mount(self, *options: object) -> Mount:
        """``cvmount`` with nothing but the profile; what it needs to know it learns from auth."""
        path, cache = self.cluster.new_path("m"), self.cluster.new_path("cache")
        program("cvmount", "--cache-dir", cache, *options, path, env=self.environment)
        return self.cluster.adopt(Mount(path, cache, self.name))

    def cannot_mount(self, *options: object) -> str:
        path = self.cluster.new_path("m")
        done = try_program("cvmount", *options, path, env=self.environment)
        assert done.returncode == 1, done.stderr
        return done.stderr


@pytest.fixture
def ann(cluster):
    return Someone(cluster, "ann").enter()


@pytest.fixture
def bob(cluster):
    return Someone(cluster, "bob").enter()


@pytest.fixture
def photos(ann):
    """Ann's mount, with a folder to share and something beside it."""
    mount = ann.mount()
    (mount / "photos" / "2026").mkdir(parents=True)
    (mount / "photos" / "2026" / "cat.jpg").write_bytes(b"miaow" * 1000)
    (mount / "diary.txt").write_text("dear diary")
    return mount


def test_a_profile_is_all_that_a_mount_needs_and_it_outlives_the_mount(ann):
    mount = ann.mount()
    (mount / "file").write_text("content")
    assert ann.json("whoami")["user"] == ann.name  # while the mount refreshes the same sign-in
    mount.umount()
    again = ann.mount()
    assert (again / "file").read_text() == "content"


def test_a_folder_is_shared_and_taken_back(ann, bob, photos):
    said = ann.cv("grant", photos / "photos", "--to", bob.name)
    assert f"{bob.name} may read photos" in said
    (received,) = bob.json("grants")
    assert (received["direction"], received["path"]) == ("received", "photos")
    photos.umount()
    given = bob.mount("--grant", received["id"])
    assert sorted(each.name for each in given.path.iterdir()) == ["2026"]
    assert (given / "2026" / "cat.jpg").read_bytes() == b"miaow" * 1000
    with pytest.raises(OSError):
        (given / "new").touch()
    assert "ask who gave it" in bob.refused("grant", given / "2026", "--to", ann.name)
    given.umount()
    ann.cv("revoke", received["id"])
    assert bob.json("grants") == []
    assert "no such grant" in bob.cannot_mount("--grant", received["id"])


def test_what_was_granted_to_write_is_seen_by_who_granted_it(ann, bob, photos):
    ann.cv("grant", photos / "photos", "--to", bob.name, "--rw", "--until", "1h")
    (received,) = bob.json("grants")
    photos.umount()
    given = bob.mount("--grant", received["id"])
    (given / "2026" / "dog.jpg").write_text("woof")
    given.umount()
    assert (ann.mount() / "photos" / "2026" / "dog.jpg").read_text() == "woof"


def test_a_team_space_is_mounted_in_turn_and_a_reader_changes_nothing(ann, bob):
    ann.cv("space", "create", "team")
    ann.cv("member", "add", "team", bob.name, "reader")
    mine = ann.mount("--space", "team")
    (mine / "plan").write_text("first")
    mine.umount()
    theirs = bob.mount("--space", "team")
    assert (theirs / "plan").read_text() == "first"
    for attempt in (lambda: (theirs / "plan").write_text("x"), lambda: (theirs / "new").touch()):
        with pytest.raises(OSError) as refused:
            attempt()
        assert refused.value.errno in (13, 30)  # EACCES, EROFS
    theirs.umount()
    ann.cv("member", "role", "team", bob.name, "editor")
    theirs = bob.mount("--space", "team")
    (theirs / "plan").write_text("second")
    theirs.umount()
    ann.cv("member", "remove", "team", bob.name)
    assert "no such space" in bob.cannot_mount("--space", "team")


def test_who_why_and_log_tell_it_rightly(ann, bob, photos):
    ann.cv("space", "create", "team")
    ann.cv("member", "add", "team", bob.name, "reader")
    mount = ann.mount("--space", "team")
    (mount / "plan").write_text("first")
    assert {(each["who"], each["role"]) for each in ann.json("who", mount / "plan")} == {
        (ann.name, "owner"), (bob.name, "reader"),
    }  # fmt: skip
    verdict = ann.json("why", mount / "plan", bob.name)
    assert (verdict["may_read"], verdict["may_write"]) == (True, False)
    assert f"{bob.name} may not reach diary.txt" in ann.cv("why", photos / "diary.txt", bob.name)
    ann.cv("grant", photos / "photos", "--to", bob.name)
    assert "grant" in ann.cv("why", photos / "photos" / "2026" / "cat.jpg", bob.name)
    assert f"{bob.name} may not reach diary.txt" in ann.cv("why", photos / "diary.txt", bob.name)

    def told():
        log = ann.json("log", mount / "plan")
        assert log["intact"] == {"files": True, "rights": True}
        return {(each["user"], each["action"]) for each in log["entries"]}

    wait_until(lambda: len(told()) >= 3, TOLD_WITHIN_S, "the log tells what was done to the file")
    assert {(ann.name, "space.create"), (ann.name, "member.add")} <= told()
    assert (ann.name, "created") in told()


def test_a_machine_mounts_with_a_token_in_a_file_and_with_nothing_else(ann, photos, tmp_path):
    token = tmp_path / "token"
    ann.cv("grant", photos / "photos", "--token", "camera", "--rw", "--token-file", token)
    photos.umount()
    camera = Someone(ann.cluster, "camera")
    words = ("--server", ann.cluster.report["auth_url"], "--token-file", token)
    mount = camera.mount(*words)
    (mount / "new.jpg").write_text("click")
    assert not (mount / "diary.txt").exists()
    secret = token.read_text().strip()
    assert secret not in _command_lines()
    assert secret not in mount.log
    mount.umount()
    (made,) = ann.json("grants")
    ann.cv("revoke", made["id"])
    camera.cannot_mount(*words)
    assert (ann.mount() / "photos" / "new.jpg").read_text() == "click"


def _command_lines() -> str:
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_a_link_opens_a_file_until_it_is_revoked(ann, photos):
    url = ann.cv("link", photos / "photos" / "2026" / "cat.jpg", "--max-downloads", "2").strip()
    assert fetch(f"{url}/file") == b"miaow" * 1000
    assert fetch(f"{url}/file") == b"miaow" * 1000
    with pytest.raises(urllib.error.HTTPError):
        fetch(f"{url}/file")
    url = ann.cv("link", photos / "photos" / "2026" / "cat.jpg").strip()
    assert fetch(f"{url}/file") == b"miaow" * 1000
    newest = max(each["id"] for each in ann.json("links"))
    ann.cv("revoke", newest)
    started = time.monotonic()
    wait_until(lambda: not opens(f"{url}/file"), 5.0, "the link opens no more")
    assert time.monotonic() - started < 5.0


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def opens(url: str) -> bool:
    try:
        fetch(url)
    except urllib.error.HTTPError:
        return False
    return True


def test_a_password_that_changed_ends_the_other_sign_ins(ann):
    elsewhere = Someone(ann.cluster, "x")
    elsewhere.name = ann.name
    elsewhere.enter("login")
    assert elsewhere.json("whoami")["user"] == ann.name
    ann.cv("passwd", "--password-stdin", stdin=f"{PASSWORD}\nanother long password\n")
    assert "signed out" in elsewhere.refused("whoami")
    assert ann.json("whoami")["user"] == ann.name


def test_a_device_that_was_revoked_is_signed_out(ann):
    elsewhere = Someone(ann.cluster, "x")
    elsewhere.name = ann.name
    elsewhere.enter("login")
    (other,) = [each for each in ann.json("devices") if not each["current"]]
    ann.cv("devices", "revoke", other["id"])
    assert "revoked" in elsewhere.refused("whoami")


def test_no_secret_of_a_profile_is_readable_by_others(ann):
    files = [path for path in (ann.home / "config").rglob("*") if path.is_file()]
    assert files
    for path in files:
        holds_secret = path.suffix == ".json"
        assert not holds_secret or path.stat().st_mode & 0o077 == 0, path
        assert PASSWORD not in path.read_text()


def test_others_spaces_are_unknown_and_nothing_of_them_is_told(ann, bob):
    assert "you have no space" in bob.refused("member", "list", ann.name)
    assert "you have no space" in bob.refused("who", f"{ann.name}:")
    assert "no such grant" in bob.refused("revoke", 10**6)
