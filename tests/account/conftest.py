"""``people``: a played cluster; ``cv``: the command line, in a configuration folder of its own, talking to it."""

import httpx
import pytest

from tests.fixtures.fakepeople import URL, Cv, FakePeople


@pytest.fixture
def people(monkeypatch):
    played = FakePeople()
    real = httpx.AsyncClient
    monkeypatch.setattr(
        "cloudverge_mount.account.jsonhttp.httpx.AsyncClient",
        lambda **settings: real(**settings | {"transport": httpx.MockTransport(played)}),
    )
    return played


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The configuration folder of whoever runs ``cv``; no cluster runs on this machine, nothing is mounted."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("CLOUDVERGE_DATA_DIR", raising=False)
    monkeypatch.setattr("cloudverge_mount.account.opening.default_cluster_folder", lambda: tmp_path / "none")
    monkeypatch.setattr("cloudverge_mount.account.paths.all_mounts", list)
    return tmp_path / "config" / "cloudverge"


@pytest.fixture
def cv(people, config, capsys, monkeypatch):
    return Cv(capsys, monkeypatch)


@pytest.fixture
def enter(cv, people):
    """Sign a user in, making the account if need be."""

    def enter(user, password="a long password"):
        if user not in people.passwords:
            people.add(user, password)
        words = ("--server", URL, "--user", user, "--password-stdin")
        assert cv("login", *words, stdin=f"{password}\n") == 0, cv.err

    return enter
