"""``cv up`` and ``cv down`` as processes, with a real PostgreSQL and stand-ins for our own servers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudverge_embedded.locks import holder_of
from cloudverge_embedded.processes import Identity

SERVER = """
import argparse, json, os, signal, socket, sys
parser = argparse.ArgumentParser()
parser.add_argument("--ready-file")
parser.add_argument("--port", type=int)
known, _ = parser.parse_known_args()
if os.path.exists(os.path.join(os.path.dirname(known.ready_file), "broken")):
    sys.exit("the stand-in is broken")
listener = socket.create_server(("127.0.0.1", known.port))
with open(known.ready_file + ".new", "w") as file:
    json.dump({"pid": os.getpid()}, file)
os.rename(known.ready_file + ".new", known.ready_file)
signal.pause()
"""
NAMES = ["postgres", "auth", "metaserver-1", "chunkserver-1", "chunkserver-2"]


class Cv:
    """Runs ``cv`` on one folder with stand-ins in the place of the servers."""

    def __init__(self, root: Path, stand_ins: Path, dsn: str = "") -> None:
        self.root = root
        self.environment = {**os.environ, "PYTHONPATH": str(stand_ins), "CLOUDVERGE_DSN": dsn}

    def start(self, verb: str, *options: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [Path(sys.executable).with_name("cv"), verb, "--dir", str(self.root), *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, verb: str, *options: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(verb, *options)
        out, err = process.communicate(timeout=90)
        return subprocess.CompletedProcess([], process.returncode, out, err)

    def up(self, *options: str) -> dict:
        done = self.run("up", "--json", *options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @property
    def file(self) -> dict:
        return json.loads((self.root / "cluster.json").read_text())


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    for name in ("auth", "metaserver", "chunkserver"):
        package = tmp_path / "stand_ins" / f"cloudverge_{name}"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(SERVER)
    return tmp_path / "stand_ins"


@pytest.fixture
def cv(tmp_path, stand_ins):
    made = Cv(tmp_path / "cluster", stand_ins)
    yield made
    made.run("down")


@pytest.fixture
def wait_until() -> Callable[..., None]:
    def wait(condition: Callable[[], object], limit_s: float = 20) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.05)

    return wait


def pids(report: dict) -> dict[str, int | None]:
    return {server["name"]: server["pid"] for server in report["servers"]}


def test_up_starts_all_and_is_idempotent_and_down_stops_all(cv):
    first = cv.up("--chunkservers", "2")
    assert list(pids(first)) == NAMES
    assert all(Identity.of(pid) for pid in pids(first).values())
    assert {"auth_url", "metaserver_url", "dsn", "metaserver_frames", "cluster"} <= first.keys()
    assert all(Path(server["data_dir"]).is_dir() for server in first["servers"])
    assert cv.up() == first == cv.file
    assert cv.run("down").returncode == 0
    assert not any(Identity.of(pid) for pid in pids(first).values())
    assert set(pids(cv.file).values()) == {None}
    assert cv.run("down").returncode == 0


def test_endpoints_stay_the_same_over_a_restart_of_the_cluster(cv):
    first = cv.up("--chunkservers", "2")
    cv.run("down")
    second = cv.up()
    assert [server["url"] for server in second["servers"]] == [server["url"] for server in first["servers"]]
    assert (second["dsn"], second["cluster"]) == (first["dsn"], first["cluster"])


def test_up_called_many_times_at_once_starts_one_cluster(cv):
    processes = [cv.start("up", "--json") for _ in range(4)]
    reports = [json.loads(process.communicate(timeout=90)[0]) for process in processes]
    assert all(report == reports[0] for report in reports)


def test_up_returns_its_output_closed_so_that_a_pipe_ends(cv):
    process = cv.start("up")
    out, _ = process.communicate(timeout=90)  # would wait for ever if a child held the pipe
    assert "is up" in out


@pytest.mark.parametrize("name", ["auth", "chunkserver-2", "postgres"])
def test_a_killed_child_is_restarted_on_its_port_and_the_file_tells_its_pid(cv, wait_until, name):
    before = cv.up("--chunkservers", "2")
    os.kill(pids(before)[name], signal.SIGKILL)
    wait_until(lambda: pids(cv.file)[name] not in (None, pids(before)[name]))
    after = cv.up()
    assert [server["url"] for server in after["servers"]] == [server["url"] for server in before["servers"]]
    assert {key: pid for key, pid in pids(after).items() if key != name} == {
        key: pid for key, pid in pids(before).items() if key != name
    }


def test_with_restart_never_a_killed_child_comes_back_only_with_up(cv, wait_until):
    before = cv.up("--chunkservers", "2", "--restart", "never")
    os.kill(pids(before)["metaserver-1"], signal.SIGKILL)
    wait_until(lambda: pids(cv.file)["metaserver-1"] is None)
    time.sleep(1)
    assert pids(cv.file)["metaserver-1"] is None
    after = cv.up()
    assert pids(after)["metaserver-1"] not in (None, pids(before)["metaserver-1"])
    assert pids(after)["auth"] == pids(before)["auth"]
    assert after["restart"] == "never"


def test_children_die_with_a_killed_supervisor_and_up_starts_anew(cv, wait_until):
    before = cv.up("--chunkservers", "2")
    os.kill(before["supervisor_pid"], signal.SIGKILL)
    wait_until(lambda: not any(Identity.of(pid) for pid in pids(before).values()))
    after = cv.up()
    assert all(Identity.of(pid) for pid in pids(after).values())
    assert [server["url"] for server in after["servers"]] == [server["url"] for server in before["servers"]]


def test_up_right_after_the_supervisor_was_killed_waits_for_its_children(cv):
    before = cv.up("--chunkservers", "2")
    os.kill(before["supervisor_pid"], signal.SIGKILL)
    after = cv.up()
    assert not set(pids(before).values()) & set(pids(after).values())


def test_a_cluster_can_grow_while_it_runs(cv):
    before = cv.up("--chunkservers", "2")
    after = cv.up("--chunkservers", "3")
    assert pids(after).items() > pids(before).items()
    assert "chunkserver-3" in pids(after)


def test_a_child_that_cannot_start_is_named_with_its_log_and_nothing_is_left(cv):
    (cv.root / "run").mkdir(parents=True)
    (cv.root / "run" / "broken").touch()
    done = cv.run("up", "--json")
    assert done.returncode == 7
    assert done.stdout == ""
    assert "auth ended with exit code 1" in done.stderr
    assert "the stand-in is broken" in done.stderr
    assert holder_of(cv.root / "supervisor.lock") is None
    (cv.root / "run" / "broken").unlink()
    cv.up()


def test_an_endpoint_changed_for_a_proxy_survives_a_restarted_child(cv, wait_until):
    before = cv.up("--chunkservers", "2")
    changed = before | {"metaserver_frames": "127.0.0.1:1"}
    (cv.root / "cluster.json").write_text(json.dumps(changed))
    os.kill(pids(before)["auth"], signal.SIGKILL)
    wait_until(lambda: pids(cv.file)["auth"] not in (None, pids(before)["auth"]))
    assert cv.file["metaserver_frames"] == "127.0.0.1:1"


def test_the_cluster_lives_on_when_its_file_cannot_be_written(cv, wait_until):
    before = cv.up("--chunkservers", "2")
    (cv.root / "cluster.json").unlink()
    (cv.root / "cluster.json").mkdir()
    os.kill(pids(before)["auth"], signal.SIGKILL)
    ready = cv.root / "run" / "auth.ready"
    wait_until(lambda: ready.exists() and json.loads(ready.read_text())["pid"] != pids(before)["auth"])
    (cv.root / "cluster.json").rmdir()
    wait_until(lambda: (cv.root / "cluster.json").exists())
    assert pids(cv.file)["auth"] == json.loads(ready.read_text())["pid"]


def test_a_port_taken_while_the_cluster_was_down_is_replaced(cv):
    before = cv.up("--chunkservers", "2")
    cv.run("down")
    port = int(before["auth_url"].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        assert cv.up()["auth_url"] != before["auth_url"]


def test_more_replicas_than_chunkservers_are_refused_before_anything_starts(cv):
    done = cv.run("up", "--chunkservers", "1", "--replicas", "2")
    assert done.returncode == 1
    assert "replicas" in done.stderr


def test_with_a_database_somebody_else_runs_no_postgres_is_started(cv, stand_ins, tmp_path):
    dsn = cv.up("--chunkservers", "2")["dsn"]
    other = Cv(tmp_path / "other", stand_ins, dsn)
    try:
        report = other.up("--chunkservers", "2")
        assert report["dsn"] == dsn
        assert "postgres" not in pids(report)
    finally:
        other.run("down")


def test_a_cluster_with_its_own_database_refuses_another(cv):
    cv.up("--chunkservers", "2")
    cv.environment["CLOUDVERGE_DSN"] = "postgresql://elsewhere/db"
    done = cv.run("up")
    assert done.returncode == 1
    assert "has a PostgreSQL of its own" in done.stderr


def test_tls_is_turned_on_between_two_runs_and_a_running_cluster_says_so(cv):
    before = cv.up("--chunkservers", "2")
    assert before["ca"] is None
    refused = cv.run("up", "--tls")
    assert refused.returncode == 1
    assert "cv down" in refused.stderr
    assert cv.up() == before
    cv.run("down")
    after = cv.up("--tls")
    assert after["auth_url"].startswith("https://127.0.0.1:")
    assert (cv.root / after["ca"]).read_bytes().startswith(b"-----BEGIN CERTIFICATE")
    assert cv.up() == after


def test_up_renews_a_certificate_of_a_running_cluster(cv):
    cv.up("--chunkservers", "2", "--tls")
    certificate = cv.root / "secrets" / "auth.pem"
    before, authority = certificate.read_bytes(), (cv.root / "ca.pem").read_bytes()
    certificate.write_bytes((cv.root / "secrets" / "chunkserver-1.pem").read_bytes())
    cv.up()
    assert certificate.read_bytes() not in (before, (cv.root / "secrets" / "chunkserver-1.pem").read_bytes())
    assert (cv.root / "ca.pem").read_bytes() == authority


def test_an_address_that_is_not_ours_is_refused_before_anything_starts(cv):
    done = cv.run("up", "--listen", "192.0.2.7")
    assert done.returncode == 1
    assert "192.0.2.7" in done.stderr
    assert not (cv.root / "settings.json").exists()
