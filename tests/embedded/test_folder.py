"""Small things that lie in the cluster folder: modes, atomic files, locks, logs, processes."""

import os
import subprocess
import sys

import pytest

from cloudverge_embedded.atomicfile import read_optional, write_atomically
from cloudverge_embedded.folder import Folder, default_root
from cloudverge_embedded.locks import holder_of, try_lock, wait_for_lock
from cloudverge_embedded.logs import tail, turn_over
from cloudverge_embedded.processes import Identity, working_in
from cloudverge_embedded.report import keep_endpoints
from cloudverge_embedded.secretfiles import make_secrets, read_dsn, write_dsns
from cloudverge_protocol.errors import CloudVergeError


def test_the_variable_names_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("CLOUDVERGE_DATA_DIR", str(tmp_path))
    assert default_root() == tmp_path


def test_secrets_are_for_their_owner_only(folder):
    make_secrets(folder)
    write_dsns(folder, 1234)
    assert folder.secrets.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.secrets.iterdir()} == {0o600}


def test_secrets_are_made_once(folder):
    make_secrets(folder)
    before = folder.join_token.read_text(), folder.passwords.read_text()
    make_secrets(folder)
    assert (folder.join_token.read_text(), folder.passwords.read_text()) == before


def test_dsns_follow_the_port(folder):
    make_secrets(folder)
    write_dsns(folder, 1234)
    write_dsns(folder, 4321)
    assert ":4321/" in read_dsn(folder, "meta")


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CloudVergeError, match="cannot make the cluster folder"):
        Folder(tmp_path / "file" / "cluster").make()


def test_a_failed_atomic_write_leaves_the_old_file_and_no_other(folder, monkeypatch):
    path = folder.run / "note"
    write_atomically(path, b"old")

    def fail(_descriptor: int) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(folder.run.iterdir()) == [path]


def test_a_missing_file_reads_as_none(folder):
    assert read_optional(folder.answer_file) is None


def test_a_lock_has_one_holder_who_is_named(folder):
    assert holder_of(folder.up_lock) is None
    with try_lock(folder.up_lock) as mine:
        assert mine
        assert holder_of(folder.up_lock) == os.getpid()
        with try_lock(folder.up_lock) as second:
            assert not second
    assert holder_of(folder.up_lock) is None


def test_waiting_for_a_held_lock_ends(folder):
    with (
        try_lock(folder.up_lock),
        pytest.raises(CloudVergeError, match="held by another"),
        wait_for_lock(folder.up_lock, limit_s=0.1),
    ):
        pass


def test_a_grown_log_is_turned_over_while_its_writer_goes_on(folder):
    path = folder.log_file("a")
    with path.open("a") as writer:
        writer.write("x" * 100)
        writer.flush()
        assert turn_over(path, limit_bytes=50)
        writer.write("next\n")
    assert path.read_text() == "next\n"
    assert path.with_name("a.log.1").stat().st_size == 100
    assert not turn_over(path, limit_bytes=50)


def test_the_tail_of_a_log_is_its_last_lines(folder):
    path = folder.log_file("a")
    assert tail(path) == ""
    path.write_text("".join(f"{number}\n" for number in range(10_000)))
    assert tail(path, lines=2) == "9998\n9999"


def test_a_process_is_known_by_more_than_its_pid():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = Identity.of(child.pid)
    assert identity is not None
    assert identity.is_alive()
    assert not Identity(identity.pid, identity.started_ticks + 1, identity.boot).is_alive()
    child.communicate()
    assert not identity.is_alive()


def test_processes_are_found_by_their_working_folder(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=tmp_path)
    assert [found.pid for found in working_in(tmp_path)] == [child.pid]
    child.communicate()
    assert working_in(tmp_path) == []


def test_changed_endpoints_survive_new_pids():
    older = {"auth_url": "http://proxy", "servers": [1]}
    assert keep_endpoints({"auth_url": "http://real", "servers": [2]}, older) == {
        "auth_url": "http://proxy",
        "servers": [2],
    }
