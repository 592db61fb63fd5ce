"""Signing up, in and out, and which of several accounts a verb means."""

import json
import socket
import stat

import pytest

from cloudverge_mount.account import prompts
from tests.fixtures.fakepeople import CLUSTER, URL

ANN = ("--server", URL, "--user", "ann")


def profile_of(config, user):
    return json.loads((config / "profiles" / f"{CLUSTER}-{user}.json").read_text())


def test_signing_up_makes_a_private_profile_without_the_password(cv, people, config):
    assert cv("signup", *ANN, "--password-stdin", stdin="a long password\n") == 0
    assert people.passwords == {"ann": "a long password"}
    file = config / "profiles" / f"{CLUSTER}-ann.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    kept = profile_of(config, "ann")
    assert (kept["server"], kept["user"], kept["refresh_token"]) == (URL, "ann", "refresh-1")
    assert "a long password" not in file.read_text()
    assert cv("whoami") == 0
    assert cv.out.startswith(f"ann at {URL}\n")


def test_every_verb_spends_its_refresh_token_and_keeps_the_next(cv, enter, people, config):
    enter("ann")
    for count in (2, 3):
        assert cv("whoami") == 0
        assert profile_of(config, "ann")["refresh_token"] == f"refresh-{count}"


def test_a_wrong_password_is_one_line_and_leaves_no_profile(cv, people, config):
    people.add("ann")
    assert cv("login", *ANN, "--password-stdin", stdin="wrong\n") == 1
    assert cv.err == "cv: wrong name or password\n"
    assert not list(config.rglob("*.json"))


def test_a_password_is_never_asked_of_nobody(cv, people):
    people.add("ann")
    assert cv("login", *ANN) == 1
    assert cv.err == "cv: nobody is here to type the password of ann: --password-stdin reads it\n"
    assert not [path for _, path, _ in people.asked if path == "/v1/login"]


def test_an_invitation_comes_from_a_file(cv, people, tmp_path):
    people.needs_invite = "come-in"
    assert cv("signup", *ANN, "--password-stdin", stdin="a long password\n") == 1
    assert cv.err == "cv: this cluster takes sign-ups by invitation\n"
    (tmp_path / "invite").write_text("come-in\n")
    words = ("--password-stdin", "--invite-file", tmp_path / "invite")
    assert cv("signup", *ANN, *words, stdin="a long password\n") == 0


def test_an_invitation_is_asked_for_where_one_is_needed(cv, people, monkeypatch):
    people.needs_invite = "come-in"
    typed = iter(["a long password", "a long password", "come-in"])
    monkeypatch.setattr(prompts, "at_terminal", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda _: next(typed))
    assert cv("signup", *ANN) == 0
    assert people.passwords == {"ann": "a long password"}


def test_a_device_is_called_by_its_host_name_unless_it_is_said_otherwise(cv, enter, people):
    enter("ann")
    assert people.body_of("POST", "/v1/login")["device"] == socket.gethostname()
    assert cv("login", *ANN, "--device", "camera", "--password-stdin", stdin="a long password\n") == 0
    assert people.body_of("POST", "/v1/login")["device"] == "camera"


def test_two_different_passwords_at_the_prompt_make_no_account(cv, people, monkeypatch):
    typed = iter(["a long password", "a lonk password"])
    monkeypatch.setattr(prompts, "at_terminal", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda _: next(typed))
    assert cv("signup", *ANN) == 1
    assert not people.passwords


def test_the_last_who_signed_in_is_meant_unless_another_is_named(cv, enter):
    enter("ann")
    enter("bob")
    assert cv.json("whoami")["user"] == "bob"
    assert cv.json("whoami", "--user", "ann")["user"] == "ann"
    assert cv("profiles", "use", "ann") == 0
    assert cv.json("whoami")["user"] == "ann"
    listed = cv.json("profiles")
    assert [(each["user"], each["server"], each["current"]) for each in listed] == [
        ("ann", URL, True),
        ("bob", URL, False),
    ]
    assert cv("profiles") == 0
    assert cv.out.splitlines()[1].split() == ["*", "ann", URL, CLUSTER]


def test_a_server_where_several_are_signed_in_wants_a_name(cv, enter):
    enter("ann")
    enter("bob")
    assert cv("profiles", "use", "bob") == 0
    assert cv.json("whoami", "--server", URL)["user"] == "bob"  # the current one is meant
    assert cv("logout") == 0
    enter("cyd")
    assert cv("logout", "--user", "cyd") == 0
    enter("bob")
    assert cv("logout") == 0
    assert cv.json("whoami", "--server", URL)["user"] == "ann"  # the only one left


def test_signing_out_tells_the_server_and_forgets(cv, enter, people, config):
    enter("ann")
    assert cv("logout") == 0
    assert not people.signed_in
    assert not list(config.rglob("*.json"))
    assert cv("whoami") == 1
    assert "cv login" in cv.err
    assert cv("logout") == 1


def test_a_sign_in_that_has_ended_elsewhere_is_forgotten_all_the_same(cv, enter, people, config):
    enter("ann")
    people.signed_in.clear()
    assert cv("whoami") == 1
    assert cv.err == f"cv: ann has been signed out of {URL}: cv login\n"
    assert cv("logout") == 0
    assert not list(config.rglob("*.json"))


def test_nobody_is_signed_in_at_a_server_says_so(cv):
    assert cv("whoami", "--server", URL, "--user", "ann") == 1
    assert cv.err == f"cv: ann is not signed in at {URL}: cv login --server {URL}\n"


def test_a_token_is_not_shown_to_another_cluster_at_the_same_address(cv, enter, people):
    enter("ann")
    people.cluster = "ffff456789abcdef0123456789abcdef"
    people.asked.clear()
    assert cv("whoami") == 6
    assert [path for _, path, _ in people.asked] == ["/v1/keys"]


def test_plain_text_is_for_this_machine_only(cv, people):
    assert cv("login", "--server", "http://files.example.org", "--password-stdin", stdin="secret\n") == 1
    assert "use https" in cv.err
    assert not people.asked


def test_changing_the_password_takes_the_old_and_the_new_from_standard_input(cv, enter, people):
    enter("ann")
    assert cv("passwd", "--password-stdin", stdin="a long password\na longer password\n") == 0
    assert people.passwords["ann"] == "a longer password"
    assert cv("passwd", "--password-stdin", stdin="wrong\nx\n") == 1


@pytest.fixture
def own_cluster(tmp_path, monkeypatch):
    """A cluster of this machine."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    report = {"cluster": CLUSTER, "auth_url": URL, "metaserver_frames": "127.0.0.1:7421", "ca": None}
    (folder / "cluster.json").write_text(json.dumps(report))
    monkeypatch.setattr("cloudverge_mount.account.opening.default_cluster_folder", lambda: folder)
    return folder


def test_without_a_profile_the_cluster_of_this_machine_is_meant_and_an_account_is_made(
    cv, people, own_cluster
):
    assert cv("whoami") == 0
    (user,) = people.passwords
    assert cv.out.startswith(f"{user} at {URL}\n")
    assert (own_cluster / "secrets" / f"user-{CLUSTER}.json").exists()


def test_a_name_that_was_mistyped_is_not_made_an_account(cv, people, own_cluster):
    assert cv("whoami", "--user", "anne") == 1
    assert "anne is not signed in" in cv.err
    assert not people.passwords


def test_the_password_that_was_made_up_need_not_be_known_to_change_it(cv, people, own_cluster):
    assert cv("whoami") == 0
    assert cv("passwd", "--password-stdin", stdin="a longer password\n") == 0
    assert list(people.passwords.values()) == ["a longer password"]
    assert "a longer password" not in (own_cluster / "secrets" / f"user-{CLUSTER}.json").read_text()
    assert cv("whoami") == 0


def test_signing_up_in_the_cluster_of_this_machine_keeps_its_folder_not_its_address(
    cv, people, own_cluster, config
):
    words = ("--cluster", own_cluster, "--user", "bob")
    assert cv("signup", *words, "--password-stdin", stdin="a long password\n") == 0
    assert profile_of(config, "bob")["folder"] == str(own_cluster)
    assert cv.json("whoami")["user"] == "bob"
    assert cv.json("whoami", *words)["user"] == "bob"
    assert cv("logout", *words) == 0
