"""The process: registration, heartbeats, HTTP, cached keys, a clean stop."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fixtures.chunkprocess import JOIN_TOKEN, ChunkProcess, Registrar


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar() as made:
        yield made


@pytest.fixture
def process(tmp_path: Path, registrar: Registrar) -> Iterator[ChunkProcess]:
    made = ChunkProcess(tmp_path, registrar)
    yield made
    made.stop()


def wait_until(true, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_registers_reports_and_stops_cleanly(process, registrar):
    process.start()
    (known,) = registrar.registered
    assert (known["frame_port"], known["http_url"]) == (process.frames[1], process.http)
    assert len(registrar.receipt_key(1)) == 32
    wait_until(lambda: len(registrar.beats) > 1)
    number, report = registrar.beats[-1]
    assert number == 1
    assert report["damaged"] == []
    assert not report["full"]
    assert 0 < report["free_bytes"] <= report["capacity_bytes"]
    started = time.monotonic()
    assert process.stop() == b""
    assert process.status == 0
    assert time.monotonic() - started < 5
    assert not process.ready_file.exists()


def test_its_secrets_are_readable_by_nobody_else(process):
    process.start()
    for name in ("receipt.key", "membership.json", "uuid", "lock"):
        assert (process.data_dir / name).stat().st_mode & 0o077 == 0
    assert process.data_dir.stat().st_mode & 0o077 == 0


def test_it_keeps_its_number_and_receipt_key_over_a_restart(process, registrar):
    process.start()
    process.stop()
    process.start()
    assert len(registrar.numbers) == 1
    assert len({body["receipt_key"] for body in registrar.registered}) == 1


def test_it_starts_with_cached_keys_while_the_metaserver_is_away_and_registers_when_it_is_back(
    process, registrar
):
    process.start()
    process.stop()
    registrar.away, registrar.registered = True, []
    process.start()
    assert registrar.registered == []
    registrar.away = False
    wait_until(lambda: registrar.beats and registrar.registered)


def test_without_keys_it_waits_for_the_metaserver(process, registrar):
    registrar.away = True
    running = process.launch()
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(1.5)
    assert not process.ready_file.exists()
    registrar.away = False
    wait_until(process.ready_file.exists)


def test_it_registers_again_when_it_has_been_forgotten(process, registrar):
    process.start()
    registrar.numbers.clear()
    wait_until(lambda: len(registrar.registered) == 2)


def test_another_clusters_metaserver_ends_it_with_a_reason(process, registrar):
    process.start()
    process.stop()
    registrar.cluster = "d" * 32
    stderr = b""
    process.launch().wait(10)
    stderr = process.stop()
    assert process.status == 1
    assert b"belongs to cluster cccc" in stderr


def test_two_processes_never_share_a_data_folder(process, registrar, tmp_path):
    process.start()
    second = ChunkProcess(tmp_path / "second", registrar)
    second.data_dir = process.data_dir
    second.launch().wait(10)
    assert b"in use by another chunkserver" in second.stop()
    assert second.status == 1


def test_http_shows_health_to_anybody_and_the_rest_to_who_has_the_join_token(process):
    process.start()
    with httpx.Client(base_url=process.http) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        refusals = {
            (reply.status_code, reply.text)
            for path in ("/metrics", "/v1/status", "/nowhere")
            for reply in (client.get(path), client.get(path, headers={"Authorization": "Bearer x"}))
        }
        assert [status for status, _ in refusals] == [401]
        client.headers["Authorization"] = f"Bearer {JOIN_TOKEN}"
        status = client.get("/v1/status").json()
        assert (status["server"], status["registered"], status["chunks"]) == (1, True, 0)
        assert "cloudverge_chunkserver_free_bytes" in client.get("/metrics").text
        assert client.get("/nowhere").status_code == 404


def test_the_log_of_a_server_that_cannot_register_holds_no_token(process, registrar):
    registrar.away = True
    process.launch()
    time.sleep(6)
    lines = process.stop().decode().splitlines()
    assert any("cannot be reached" in json.loads(line)["event"] for line in lines)
    assert not any(JOIN_TOKEN in line for line in lines)
