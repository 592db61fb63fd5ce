"""The cluster as people get it: real servers, one sign-up, and every kind of child killed once."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.fixtures.cluster import is_running, wait_until
from tests.fixtures.postgres import run_async

CV = Path(sys.executable).with_name("cv")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The report of a running cluster of three chunkservers."""
    root = tmp_path_factory.mktemp("real") / "cluster"
    environment = {**os.environ, "CLOUDVERGE_DSN": ""}
    done = subprocess.run(
        [CV, "up", "--dir", root, "--json"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout) | {"file": root / "cluster.json"}
    assert subprocess.run([CV, "down", "--dir", root], timeout=120, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def ticket(cluster) -> str:
    """An identity ticket of a user who has just signed up."""
    with httpx.Client(base_url=cluster["auth_url"], timeout=30) as auth:
        names = {"user": "ann", "password": "correct horse battery staple", "device": "laptop"}
        signed_up = auth.post("/v1/signup", json=names)
        assert signed_up.status_code < 300, signed_up.text
        header = {"Authorization": f"Bearer {signed_up.json()['access_token']}"}
        granted = auth.post("/v1/tickets", json={"space": ""}, headers=header)
        assert granted.status_code < 300, granted.text
        return granted.json()["ticket"]


@pytest.fixture
def active_servers(cluster, ticket) -> Callable[[], int]:
    """How many chunkservers the metaserver counts on; -1 if it does not answer."""

    def count() -> int:
        try:
            answer = httpx.get(
                cluster["metaserver_url"] + "/v1/servers",
                headers={"Authorization": f"Bearer {ticket}"},
                timeout=10,
            )
        except httpx.HTTPError:
            return -1
        assert answer.status_code in (200, 503), answer.text
        return len(answer.json()["servers"]) if answer.status_code == 200 else -1

    return count


def test_every_server_answers_and_the_chunkservers_have_joined(cluster, active_servers):
    for server in cluster["servers"]:
        if server["url"]:
            assert httpx.get(server["url"] + "/healthz", timeout=10).status_code == 200
    assert active_servers() == 3


@pytest.mark.parametrize("name", ["chunkserver-2", "metaserver-1", "auth", "postgres"])
def test_after_a_kill_the_cluster_is_whole_again_on_the_same_addresses(cluster, active_servers, name):
    before = next(server["pid"] for server in cluster["servers"] if server["name"] == name)
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while True:
        now = json.loads(cluster["file"].read_text())
        pid = next(server["pid"] for server in now["servers"] if server["name"] == name)
        if pid not in (None, before) and active_servers() == 3:
            break
        assert time.monotonic() < deadline, f"{name} did not come back"
        time.sleep(0.1)


def test_no_secret_is_an_argument_or_in_a_log(cluster):
    root = cluster["file"].parent
    secrets = [path.read_text().strip() for path in (root / "secrets").iterdir() if path.name == "join-token"]
    secrets += json.loads((root / "secrets" / "postgres-passwords.json").read_text()).values()
    shown = "".join(path.read_text(errors="replace") for path in (root / "logs").iterdir())
    for server in json.loads(cluster["file"].read_text())["servers"]:
        shown += Path(f"/proc/{server['pid']}/cmdline").read_text()
    assert not [secret for secret in secrets if secret in shown]


def test_a_storage_host_joins_with_one_line_serves_over_tls_and_comes_back(tmp_path_factory):
    root = tmp_path_factory.mktemp("reached")
    cluster = ["--dir", str(root / "cluster")]
    try:
        report = json.loads(run("up", *cluster, "--listen", "127.0.0.1", "--chunkservers", "1", "--json"))
        trusted = ssl.create_default_context(cafile=root / "cluster" / report["ca"])
        if "/v1/nodes" not in httpx.get(f"{report['auth_url']}/openapi.json", verify=trusted).json()["paths"]:
            pytest.skip("this auth enrols nobody yet")
        (line,) = run("add-node", *cluster).splitlines()
        program, verb, *words = line.split()
        assert (program, verb, words[0]) == ("cv", "join", report["auth_url"])
        for _ in range(2):  # the code is good once, the files for ever
            run(verb, *words, "--dir", str(root / "node"), "--background")
            pid = json.loads((root / "node" / "ready.json").read_text())["pid"]
            try:
                assert [host for host, _ in registered(report["dsn"])] == ["127.0.0.1"] * 2
                assert all(url.startswith("https://") for _, url in registered(report["dsn"]))
            finally:
                os.kill(pid, signal.SIGTERM)
                wait_until(lambda pid=pid: not is_running(pid), 20, "the storage host ends")
        again = subprocess.run(
            [CV, verb, *words, "--dir", root / "second"], capture_output=True, text=True, timeout=60
        )
        assert again.returncode == 1
        assert "cv add-node" in again.stderr
    finally:
        run("down", *cluster)


def run(*arguments: str) -> str:
    """What ``cv`` prints."""
    environment = {**os.environ, "CLOUDVERGE_DSN": ""}
    done = subprocess.run([CV, *arguments], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def registered(dsn: str) -> list[tuple[str, str]]:
    """Host and URL of each chunkserver that the metaserver knows."""

    async def ask() -> list[tuple[str, str]]:
        connection = await asyncpg.connect(dsn)
        try:
            return [tuple(row) for row in await connection.fetch("select host, http_url from meta.servers")]
        finally:
            await connection.close()

    return run_async(ask)
