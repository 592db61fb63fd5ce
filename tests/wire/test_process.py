"""A server as a process: flags and environment, ready file, logs, signals."""

import json
import signal
import subprocess
import sys
import time

import pytest

SERVER = """
import asyncio, contextlib, sys
import structlog
from cloudverge_protocol.errors import Code, Unavailable
from cloudverge_wire.arguments import ServerSettings, parse, settings_config
from cloudverge_wire.process import Endpoints, run

class Settings(ServerSettings):
    model_config = settings_config("demo")
    trouble: str = ""

@contextlib.asynccontextmanager
async def serve(settings):
    if settings.trouble == "refuse":
        raise Unavailable(Code.UNAVAILABLE, "no database here")
    if settings.trouble == "hang":
        await asyncio.sleep(3600)
    structlog.get_logger().warning("careful", token="hunter2", port=settings.port, insecure=settings.insecure)
    try:
        yield Endpoints("http://127.0.0.1:1", "127.0.0.1:2")
    finally:
        print("stopped")

sys.exit(run("demo", parse(Settings), serve))
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    started = []

    def run(*flags, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        command = [sys.executable, "-c", SERVER, *flags]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(path):
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_says_when_it_is_ready_and_stops_when_told(start, tmp_path, number):
    ready = tmp_path / "ready"
    process = start("--ready-file", str(ready), "--port", "7", "--insecure")
    wait_for(ready)
    assert json.loads(ready.read_text()) == {
        "http": "http://127.0.0.1:1",
        "frames": "127.0.0.1:2",
        "pid": process.pid,
    }
    process.send_signal(number)
    output, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    assert output == "stopped\n"
    assert not ready.exists()
    line = json.loads(errors)
    assert (line["event"], line["level"], line["server"]) == ("careful", "warning", "demo")
    assert (line["port"], line["insecure"], line["token"]) == (7, True, "***")


def test_settings_come_from_the_environment_and_flags_win(start, tmp_path):
    ready = tmp_path / "ready"
    process = start("--port", "8", CLOUDVERGE_DEMO_PORT="7", CLOUDVERGE_DEMO_READY_FILE=str(ready))
    wait_for(ready)
    process.terminate()
    assert json.loads(process.communicate(timeout=10)[1])["port"] == 8


def test_logs_are_as_loud_as_asked(start, tmp_path):
    ready = tmp_path / "ready"
    process = start("--ready-file", str(ready), CLOUDVERGE_LOG="error")
    wait_for(ready)
    process.terminate()
    assert process.communicate(timeout=10)[1] == ""


def test_a_server_that_cannot_start_says_why_in_one_line(start):
    process = start("--trouble", "refuse")
    assert process.communicate(timeout=20)[1] == "cloudverge-demo: no database here\n"
    assert process.returncode == 1


def test_a_server_told_to_stop_while_it_starts_stops(start):
    process = start("--trouble", "hang")
    time.sleep(1.0)
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_wrong_flags_are_named_without_their_values(start):
    process = start("--port", "hunter2")
    assert "port" in (errors := process.communicate(timeout=20)[1])
    assert "hunter2" not in errors
    assert process.returncode == 2
