"""cloudverge-auth as a process, on a database that comes and goes."""

import json
import os
import signal
import subprocess
import sys
import time

import httpx
import pytest
import trustme

PASSWORD = "correct horse battery"


@pytest.fixture
def start(dsn_file, tmp_path):
    started = []

    def run(*flags, wait=True):
        ready = tmp_path / f"ready-{len(started)}"
        command = [sys.executable, "-m", "cloudverge_auth", "--ready-file", str(ready), *flags]
        environment = {**os.environ, "CLOUDVERGE_DSN_FILE": str(dsn_file)}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        started.append(process)
        deadline = time.monotonic() + 40
        while wait and not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process, json.loads(ready.read_text()) if wait else None

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_auth_serves_from_start_to_stop_and_remembers(start):
    credentials = {"user": "ann", "password": PASSWORD, "device": "laptop"}
    for path, status in (("/v1/signup", 201), ("/v1/login", 200)):
        process, ready = start()
        assert ready["frames"] is None
        assert ready["pid"] == process.pid
        answer = httpx.post(ready["http"] + path, json=credentials)
        assert answer.status_code == status
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert process.stderr.read() == ""


def test_auth_outlives_its_database(start, postgres):
    process, ready = start()
    credentials = {"user": "ann", "password": PASSWORD, "device": "laptop"}
    signed_in = httpx.post(ready["http"] + "/v1/signup", json=credentials).json()
    headers = {"authorization": f"Bearer {signed_in['access_token']}"}
    for take_away in (postgres.stop, postgres.kill):
        take_away()
        try:
            answer = httpx.post(ready["http"] + "/v1/tickets", json={}, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
            assert httpx.get(ready["http"] + "/healthz").status_code == 200
        finally:
            postgres.start()
        assert httpx.post(ready["http"] + "/v1/tickets", json={}, headers=headers).status_code == 200
    assert process.poll() is None


def test_auth_waits_for_a_database_that_is_still_starting(start, postgres, monkeypatch):
    postgres.stop()
    try:
        monkeypatch.setenv("CLOUDVERGE_LOG", "info")
        process, _ = start(wait=False)
        assert "database unavailable" in process.stderr.readline()
        process.terminate()
        assert process.wait(10) == 0
    finally:
        postgres.start()


def secret_file(path, text):
    path.touch(0o600)
    path.write_text(text)
    return str(path)


def test_auth_takes_its_secrets_from_files_and_says_none_of_them(start, tmp_path, monkeypatch):
    monkeypatch.setenv("CLOUDVERGE_LOG", "debug")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    join, invite, key = "j" * 40, "i" * 40, authority.private_key_pem.bytes().decode()
    process, ready = start(
        "--join-token-file", secret_file(tmp_path / "join", join),
        "--admin-invite-file", secret_file(tmp_path / "invite", invite),
        "--ca-key-file", secret_file(tmp_path / "ca.key", key),
        "--tls-ca", str(tmp_path / "ca.pem"),
        "--metaserver", "127.0.0.1:7001",
        "--metaserver-url", "http://127.0.0.1:7002",
    )  # fmt: skip
    with httpx.Client(base_url=ready["http"]) as http:
        credentials = {"user": "ann", "password": PASSWORD, "device": "laptop", "invite": invite}
        signed_in = http.post("/v1/signup", json=credentials).json()
        http.headers["authorization"] = f"Bearer {signed_in['access_token']}"
        assert http.get("/v1/whoami").json()["admin"]
        ticket = http.post("/v1/tickets", json={}).json()
        assert (ticket["metaserver"], ticket["metaserver_url"]) == ("127.0.0.1:7001", "http://127.0.0.1:7002")
        http.headers["authorization"] = f"Bearer {join}"
        assert http.get("/v1/revocations").json() == {"spaces": {}, "links": [], "deleted": []}
    process.terminate()
    _, said = process.communicate(timeout=20)
    assert "an administrator invitation was taken in" in said
    for secret in (
        join,
        invite,
        PASSWORD,
        signed_in["refresh_token"],
        signed_in["access_token"],
        key.split("\n")[1],
    ):
        assert secret not in said


def test_auth_refuses_a_public_address_without_tls(start):
    process, _ = start("--host", "0.0.0.0", wait=False)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "--insecure" in errors


def test_auth_refuses_a_database_of_another_cluster(start):
    process, _ = start("--cluster-id", "f" * 32, wait=False)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "belongs to cluster" in errors
