"""The cluster as people get it: real servers, one sign-up, and every kind of child killed once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

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
