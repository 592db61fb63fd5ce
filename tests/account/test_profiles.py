"""Profiles on disk, the keyring that may be there, trust on first use, and which options take what."""

import inspect
import json
import ssl
import stat
import sys
import time
import types

import pytest
import trustme
import typer
from msgspec.structs import replace

from cloudverge_cli.catalog import installed_verbs
from cloudverge_mount.account import prompts
from cloudverge_mount.account.keyrings import SERVICE, Keyring
from cloudverge_mount.account.profiles import Profiles
from cloudverge_mount.account.trust import fingerprint_of, same_fingerprint
from cloudverge_mount.credentials import Credentials
from cloudverge_mount.cvmount import build_parser, make_config, sign_in_elsewhere
from cloudverge_mount.endpoints import remote
from cloudverge_protocol.errors import Refused, Unavailable
from tests.fixtures.fakepeople import CLUSTER, URL

ANN = Credentials(CLUSTER, "ann", refresh_token="refresh-1", server=URL)


@pytest.fixture
def profiles(tmp_path):
    return Profiles(tmp_path)


def test_two_users_of_one_server_keep_apart(profiles):
    profiles.file(CLUSTER, "ann").save(ANN)
    profiles.file(CLUSTER, "bob").save(Credentials(CLUSTER, "bob", refresh_token="refresh-2", server=URL))
    assert [each.user for each in profiles.all()] == ["ann", "bob"]
    assert profiles.file(CLUSTER, "ann").load() == ANN


def test_the_current_profile_is_remembered_until_it_is_removed(profiles):
    profiles.file(CLUSTER, "ann").save(ANN)
    assert profiles.current() is None
    profiles.make_current(CLUSTER, "ann")
    assert profiles.current() == ANN
    profiles.remove(CLUSTER, "ann")
    assert profiles.current() is None
    assert profiles.all() == []


def test_a_user_does_not_choose_the_file_of_his_profile(profiles):
    with pytest.raises(Refused):
        profiles.file(CLUSTER, "../../ann")


def test_the_one_file_of_a_cluster_of_before_becomes_a_profile(profiles, tmp_path):
    (tmp_path / "credentials").mkdir()
    old = tmp_path / "credentials" / f"{CLUSTER}.json"
    old.write_text(
        json.dumps({"cluster": CLUSTER, "user": "ann", "password": "", "refresh_token": "refresh-9"})
    )
    (found,) = profiles.all()
    assert (found.user, found.refresh_token) == ("ann", "refresh-9")
    assert not old.exists()
    assert stat.S_IMODE((tmp_path / "profiles" / f"{CLUSTER}-ann.json").stat().st_mode) == 0o600


def test_an_old_file_never_replaces_a_profile(profiles, tmp_path):
    profiles.file(CLUSTER, "ann").save(ANN)
    (tmp_path / "credentials").mkdir()
    old = {"cluster": CLUSTER, "user": "ann", "refresh_token": "older"}
    (tmp_path / "credentials" / f"{CLUSTER}.json").write_text(json.dumps(old))
    assert profiles.all() == [ANN]


class FakeRing:
    """A keyring's backend; ``slow_s`` is how long it waits, as one that asks somebody to unlock it."""

    priority = 5

    def __init__(self):
        self.kept = {}
        self.slow_s = 0.0
        self.asked = 0

    def set_password(self, service, name, secret):
        self._wait()
        self.kept[service, name] = secret

    def get_password(self, service, name):
        self._wait()
        return self.kept.get((service, name))

    def delete_password(self, service, name):
        self._wait()
        del self.kept[service, name]

    def _wait(self):
        self.asked += 1
        time.sleep(self.slow_s)


@pytest.fixture
def ring(monkeypatch):
    backend = FakeRing()
    monkeypatch.setitem(sys.modules, "keyring", types.SimpleNamespace(get_keyring=lambda: backend))
    return backend


def test_the_keyring_takes_the_secret_where_there_is_one(ring, profiles, tmp_path):
    file = profiles.file(CLUSTER, "ann")
    file.save(ANN)
    assert "refresh-1" not in file.path.read_text()
    assert list(ring.kept) == [(SERVICE, str(file.path))]
    assert file.load().refresh_token == "refresh-1"
    profiles.remove(CLUSTER, "ann")
    assert ring.kept == {}


def test_the_keyring_takes_what_the_secret_is_being_traded_for_too(ring, profiles):
    file = profiles.file(CLUSTER, "ann")
    file.save(replace(ANN, next_token="refresh-2"))
    assert "refresh-" not in file.path.read_text()
    assert (file.load().refresh_token, file.load().next_token) == ("refresh-1", "refresh-2")
    file.save(replace(ANN, refresh_token="refresh-2"))
    assert (file.load().refresh_token, file.load().next_token) == ("refresh-2", "")


def test_a_secret_that_the_keyring_does_not_give_is_no_end_of_the_sign_in(ring, profiles):
    profiles.file(CLUSTER, "ann").save(ANN)
    ring.kept.clear()
    with pytest.raises(Unavailable, match="keyring"):
        profiles.file(CLUSTER, "ann").load()
    assert profiles.all()[0].user == "ann"


def test_a_keyring_that_never_answers_costs_a_moment_once_and_the_file_is_used(ring, tmp_path):
    ring.slow_s = 2.0
    profiles = Profiles(tmp_path, Keyring(wait_s=0.05))
    started = time.monotonic()
    for token in ("refresh-1", "refresh-2", "refresh-3"):
        profiles.file(CLUSTER, "ann").save(Credentials(CLUSTER, "ann", refresh_token=token))
    assert time.monotonic() - started < 1
    assert profiles.file(CLUSTER, "ann").load().refresh_token == "refresh-3"
    assert ring.asked == 1


@pytest.mark.parametrize("trouble", ["plain", "raises"])
def test_a_keyring_that_keeps_nothing_safely_is_none(ring, profiles, trouble, monkeypatch):
    if trouble == "plain":
        ring.priority = 0.5
    else:
        monkeypatch.setattr(ring, "set_password", None)
    file = profiles.file(CLUSTER, "ann")
    file.save(ANN)
    assert "refresh-1" in file.path.read_text()
    assert ring.kept == {}


# --- trust ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ca():
    return trustme.CA().cert_pem.bytes().decode()


HTTPS = "https://files.example.org"
LOGIN = ("login", "--server", HTTPS, "--user", "ann", "--password-stdin")


def test_a_fingerprint_is_compared_however_it_is_written(ca):
    shown = fingerprint_of(ca)
    assert len(shown.split()) == 16
    assert same_fingerprint(shown, shown.replace(" ", ":").upper())
    assert not same_fingerprint(shown, shown[:-1])
    assert not same_fingerprint("", "")


def test_nobody_is_there_to_trust_a_server_so_no_password_is_sent(cv, people, ca):
    people.ca = ca
    people.add("ann")
    assert cv(*LOGIN, stdin="a long password\n") == 1
    assert "--fingerprint HEX" in cv.err
    assert fingerprint_of(ca) in cv.err
    assert [path for _, path, _ in people.asked] == ["/v1/ca"]


def test_the_right_fingerprint_pins_the_ca_and_the_wrong_one_ends_it(cv, people, ca, config):
    people.ca = ca
    people.add("ann")
    assert cv(*LOGIN, "--fingerprint", "ab" * 32, stdin="a long password\n") == 1
    assert "another fingerprint" in cv.err
    assert not people.signed_in
    assert cv(*LOGIN, "--fingerprint", fingerprint_of(ca), stdin="a long password\n") == 0
    kept = json.loads((config / "profiles" / f"{CLUSTER}-ann.json").read_text())
    assert kept["ca"] == ca
    people.asked.clear()
    assert cv("whoami") == 0
    people.add("bob")  # another user trusts what this machine trusts
    words = ("login", "--server", HTTPS, "--user", "bob", "--password-stdin")
    assert cv(*words, stdin="a long password\n") == 0
    assert not [path for _, path, _ in people.asked if path == "/v1/ca"]


def test_somebody_at_the_terminal_decides(cv, people, ca, monkeypatch):
    people.ca = ca
    people.add("ann")
    monkeypatch.setattr(prompts, "at_terminal", lambda: True)
    assert cv(*LOGIN, stdin="n\na long password\n") == 1
    assert not people.signed_in
    assert cv(*LOGIN, stdin="y\na long password\n") == 0
    assert people.signed_in


def test_a_ca_in_a_file_is_trusted_without_asking(cv, people, ca, config, tmp_path):
    (tmp_path / "ca.pem").write_text(ca)
    people.add("ann")
    assert cv(*LOGIN, "--ca", tmp_path / "ca.pem", stdin="a long password\n") == 0
    assert not [path for _, path, _ in people.asked if path == "/v1/ca"]
    (tmp_path / "ca.pem").write_text("no certificate")
    assert cv(*LOGIN, "--ca", tmp_path / "ca.pem", stdin="a long password\n") == 1
    assert cv(*LOGIN, "--ca", tmp_path / "none.pem", stdin="a long password\n") == 1


# --- what a mount makes of it -----------------------------------------------------------------------------------


def config_of(*words):
    return make_config(build_parser().parse_args([*map(str, words), "/mnt/x"]))


def test_a_mount_uses_the_profile_and_its_pin(cv, people, ca, tmp_path):
    (tmp_path / "ca.pem").write_text(ca)
    people.add("ann")
    cv(*LOGIN, "--ca", tmp_path / "ca.pem", stdin="a long password\n")
    for words in (("--server", HTTPS, "--user", "ann"), ("--server", f"{HTTPS}/"), ("--user", "ann"), ()):
        config = config_of(*words)
        assert (config.server_url, config.user, config.ca_pem) == (HTTPS, "ann", ca.strip()), words
        people.asked.clear()
        assert sign_in_elsewhere(config) == config
        assert not people.asked
    assert ca.strip() not in repr(config)


def test_a_folder_of_this_machines_cluster_wins_over_the_current_profile(cv, enter, tmp_path, monkeypatch):
    enter("ann")
    assert config_of("--cluster", tmp_path).cluster_folder == tmp_path
    assert config_of().server_url == URL
    monkeypatch.setenv("CLOUDVERGE_DATA_DIR", str(tmp_path))
    assert config_of().server_url is None


def test_a_mount_without_a_profile_signs_in_by_a_password_and_keeps_none(cv, people, config, monkeypatch):
    people.add("ann")
    monkeypatch.setenv("CLOUDVERGE_PASSWORD", "a long password")
    made = sign_in_elsewhere(config_of("--server", URL, "--user", "ann"))
    assert made.user == "ann"
    (file,) = config.rglob("*.json")
    assert "a long password" not in file.read_text()
    assert json.loads(file.read_text())["server"] == URL
    assert not (config / "profiles" / "current").exists()


def test_a_machines_token_comes_from_a_file_that_nobody_else_reads(cv, tmp_path):
    file = tmp_path / "token"
    file.write_text("cvt_secret\n")
    file.chmod(0o644)
    with pytest.raises(Refused, match="chmod 600"):
        config_of("--server", URL, "--token-file", file)
    file.chmod(0o600)
    config = config_of("--server", URL, "-o", f"token-file={file}")
    assert config.machine_token == "cvt_secret"
    assert "cvt_secret" not in repr(config)


def test_a_grant_is_named_by_its_number(cv):
    assert config_of("--grant", "3").grant == 3
    assert config_of("-o", "grant=3").grant == 3
    with pytest.raises(Refused):
        config_of("-o", "grant=photos")


# --- no option takes a secret -----------------------------------------------------------------------------------

HARMLESS = {"--token": "a label", "--password": "a flag", "--invite-file": "a path", "--token-file": "a path",
            "--password-stdin": "a flag"}  # fmt: skip
SUSPICIOUS = ("password", "token", "secret", "invite", "key")


def functions_of(loaded):
    if not isinstance(loaded, typer.Typer):
        return [loaded]
    inner = [command.callback for command in loaded.registered_commands]
    inner += [loaded.registered_callback.callback] if loaded.registered_callback else []
    return inner + [each for group in loaded.registered_groups for each in functions_of(group.typer_instance)]


def test_no_verb_takes_a_secret_as_an_argument():
    seen = set()
    for verb in installed_verbs().values():
        if not verb.module.startswith("cloudverge_mount.account"):
            continue
        for function in functions_of(verb.load()):
            for parameter in inspect.signature(function).parameters.values():
                (option,) = getattr(parameter.annotation, "__metadata__", (None,))
                texts = [getattr(option, "default", ""), *(getattr(option, "param_decls", ()) or ())]
                names = [
                    name
                    for text in texts
                    if isinstance(text, str)
                    for name in text.split("/")
                    if "--" in name
                ]
                for name in names or [parameter.name]:
                    if any(word in name for word in SUSPICIOUS):
                        seen.add(name)
                        kind = str(parameter.annotation)
                        assert name in HARMLESS, f"{verb.name} {name}"
                        assert HARMLESS[name] != "a flag" or "bool" in kind
                        assert HARMLESS[name] != "a path" or "Path" in kind
    assert seen == set(HARMLESS)


def test_a_context_from_a_pin_trusts_that_ca_alone(ca):
    context = remote(HTTPS, None, None, ca).tls()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
