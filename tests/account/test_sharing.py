"""Granting, linking, revoking; what a PATH means; who, why and log."""

import json
import stat
import time
from pathlib import Path

import pytest

from cloudverge_mount.account.choice import Wish
from cloudverge_mount.account.paths import Located, locate, wish_for
from cloudverge_mount.registry import MountRecord
from cloudverge_protocol.errors import Refused
from tests.fixtures.fakepeople import SINCE, URL


def mount(mountpoint="/home/ann/cloud", **settings):
    return MountRecord(mountpoint, 1, 1, "ann", "/cache", "/run/1.sock", space_id=7, **settings)


def test_a_folder_is_granted_to_a_user_read_only_if_nothing_is_said(cv, enter, people):
    enter("ann")
    assert cv("grant", "ann:photos/", "--to", "bob") == 0
    assert cv.out == "grant 1: bob may read photos\n"
    assert people.body_of("POST", "/v1/grants") == {
        "space": 7,
        "root": 2,
        "path": "photos",
        "rw": False,
        "to": "bob",
    }
    assert cv("grant", "ann:", "--to", "bob", "--rw", "--until", "7d") == 0
    sent = people.body_of("POST", "/v1/grants")
    assert (sent["root"], sent["path"], sent["rw"]) == (1, "/", True)
    assert abs(sent["until"] - time.time() - 7 * 86_400) < 60


def test_a_machines_token_is_the_only_thing_on_standard_output_or_in_a_private_file(
    cv, enter, people, tmp_path
):
    enter("ann")
    assert cv("grant", "ann:photos", "--token", "camera", "--rw") == 0
    assert cv.out == "cvt_secret\n"
    assert people.body_of("POST", "/v1/grants")["label"] == "camera"
    file = tmp_path / "token"
    assert cv("grant", "ann:photos", "--token", "camera", "--token-file", file) == 0
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("cvt_secret\n", 0o600)
    assert "cvt_secret" not in cv.out + cv.err
    made = len(people.grants)
    assert cv("grant", "ann:photos", "--token", "camera", "--token-file", file) == 1  # it is there already
    assert len(people.grants) == made


def test_a_token_file_does_not_stay_behind_without_a_token(cv, enter, people, tmp_path):
    enter("ann")
    people.full = True
    assert cv("grant", "ann:photos", "--token", "camera", "--token-file", tmp_path / "token") == 4
    assert not (tmp_path / "token").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ann:photos"], "say who gets it"),
        (["ann:photos", "--to", "bob", "--token", "x"], "say who gets it"),
        (["ann:photos", "--to", "bob", "--until", "yesterday"], "is no time"),
        (["ann:photos", "--to", "bob", "--until", "2020-01-01"], "is over already"),
        (["ann:photos/cat.jpg", "--to", "bob"], "is no folder"),
        (["ann:video", "--to", "bob"], "there is no video in"),
        (["/nowhere/photos", "--to", "bob"], "is in no CloudVerge mount of yours"),
        (["bobs:photos", "--to", "bob"], "you have no space bobs"),
    ],
)
def test_what_cannot_be_granted_is_told_in_one_line(cv, enter, people, words, said):
    enter("ann")
    assert cv("grant", *words) == 1
    assert said in cv.err
    assert cv.err.count("\n") == 1
    assert not people.grants


def test_a_link_is_to_a_file_with_a_password_from_standard_input(cv, enter, people):
    enter("ann")
    assert cv("link", "ann:photos") == 1
    assert "cv grant gives a folder" in cv.err
    assert cv("link", "ann:photos/cat.jpg") == 0
    assert cv.out == "https://meta/l/s3cret\n"
    assert people.body_of("POST", "/v1/links") == {"space": 7, "ino": 3, "path": "photos/cat.jpg"}
    words = ("--password-stdin", "--max-downloads", "3", "--until", "12h")
    assert cv("link", "ann:photos/cat.jpg", *words, stdin="open sesame\n") == 0
    sent = people.body_of("POST", "/v1/links")
    assert (sent["password"], sent["max_downloads"]) == ("open sesame", 3)
    assert cv("link", "ann:photos/cat.jpg", "--password") == 1  # nobody is there to type it
    assert cv("links") == 0
    assert "0 of 3" in cv.out


def test_grants_are_listed_for_both_sides_and_taken_back(cv, enter, people):
    enter("ann")
    cv("grant", "ann:photos", "--to", "bob")
    cv("link", "ann:photos/cat.jpg")
    assert cv("grants") == 0
    assert "ann:photos" in cv.out
    assert "cat.jpg" not in cv.out
    enter("bob")
    assert [each["direction"] for each in cv.json("grants")] == ["received"]
    assert cv("grants") == 0
    assert "cvmount --grant ID" in cv.err
    assert cv("revoke", "1", "--user", "ann") == 0
    assert cv("revoke", "1", "--user", "ann") == 1
    assert cv.err == "cv: you have given no such grant, token or link\n"


# --- what a PATH means ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "there", "found"),
    [
        ("/home/ann/cloud/photos", True, ("7", "photos")),
        ("/home/ann/cloud", True, ("7", "")),
        ("/home/ann/cloud/new", False, ("7", "new")),
        ("/home/ann/cloud/a:b", True, ("7", "a:b")),
        ("team:photos/2026/", False, ("team", "photos/2026")),
        ("team:/photos", False, ("team", "photos")),
        ("team:", False, ("team", "")),
        ("9:a:b", False, ("9", "a:b")),
    ],
)
def test_a_path_is_in_a_mount_or_in_a_space_that_is_named(text, there, found):
    located = locate(text, [mount()], exists=lambda _: there)
    assert (located.space, located.path) == found


@pytest.mark.parametrize("text", ["/home/ann/cloudy/x", "photos", ":photos", "./a:b", "/x/team:photos"])
def test_a_path_that_is_in_neither_is_refused(text):
    with pytest.raises(Refused, match="SPACE:PATH"):
        locate(text, [mount()], exists=lambda _: False)


def test_what_lies_in_a_mount_is_asked_for_as_its_account():
    elsewhere = Located("7", "x", None, mount(server_url=URL, user="ann", profile_user="ann"))
    own = Located("7", "x", None, mount(cluster_folder="/srv/c", user="ann"))
    assert wish_for(elsewhere, Wish()) == Wish(server=URL, user="ann")
    assert wish_for(own, Wish()) == Wish(cluster=Path("/srv/c"))
    assert wish_for(own, Wish(user="bob")) == Wish(user="bob")
    with pytest.raises(Refused, match="nobody's account"):
        wish_for(Located("7", "x", None, mount(machine=True)), Wish())


def test_what_was_granted_is_not_passed_on(cv, enter, people, monkeypatch):
    enter("bob")
    monkeypatch.setattr(
        "cloudverge_mount.account.paths.all_mounts",
        lambda: [mount("/mnt/photos", server_url=URL, user="bob", grant=3)],
    )
    monkeypatch.setattr("cloudverge_mount.account.paths.ask", lambda *_: [])
    for words in (
        ["grant", "/mnt/photos/x", "--to", "cyd"],
        ["link", "/mnt/photos/x"],
        ["who", "/mnt/photos/x"],
    ):
        assert cv(*words) == 1
        assert "ask who gave it" in cv.err


def test_a_mount_is_synced_before_a_path_in_it_is_asked_for(cv, enter, people, monkeypatch):
    enter("ann")
    done = []
    record = mount(server_url=URL, user="ann")
    monkeypatch.setattr("cloudverge_mount.account.paths.all_mounts", lambda: [record])
    monkeypatch.setattr(
        "cloudverge_mount.account.paths.ask", lambda path, do: done.append((str(path), do)) or []
    )
    assert cv("grant", "/home/ann/cloud/photos", "--to", "bob") == 0
    assert done == [("/run/1.sock", "sync")]


# --- explaining -------------------------------------------------------------------------------------------------


def test_who_shows_everybody_and_the_rule(cv, enter, people):
    enter("ann")
    people.add("bob")
    people.members[7]["cyd"] = "reader"
    cv("grant", "ann:photos", "--to", "bob", "--rw")
    cv("grant", "ann:music", "--to", "dan")
    cv("link", "ann:photos/cat.jpg")
    reaching = cv.json("who", "ann:photos/cat.jpg")
    assert [(each["who"], each["role"]) for each in reaching] == [
        ("ann", "owner"), ("cyd", "reader"), ("bob", "editor"), ("whoever has the link", "reader"),
    ]  # fmt: skip
    assert cv("who", "ann:photos") == 0
    assert "grant 1 of photos by ann" in cv.out
    assert "link" not in cv.out


def test_why_tells_the_rule_or_what_does_not_help(cv, enter, people):
    enter("ann")
    people.add("bob")
    cv("grant", "ann:photos", "--to", "bob")
    assert cv("why", "ann:photos/cat.jpg", "bob") == 0
    assert cv.out.startswith("bob may read photos/cat.jpg:\n  as reader: grant 1 of photos by ann")
    assert cv("why", "ann:music", "bob") == 0
    assert cv.out.splitlines() == [
        "bob may not reach music:",
        "  bob is no member of this space",
        "  grant 1: gives photos, and this is not below it",
    ]
    assert cv.json("why", "ann:music", "ann")["may_write"]


def test_who_is_no_owner_is_told_that_there_may_be_more(cv, enter, people):
    enter("ann")
    enter("bob")
    people.members[7]["bob"] = "editor"
    assert cv("who", "7:photos") == 0
    assert "an owner of the space sees all" in cv.err


def test_the_log_tells_files_and_rights_in_order_and_whether_it_is_intact(cv, enter, people):
    enter("ann")
    people.files_log = [
        {
            "seq": 4,
            "at": 1_800_000_000.5,
            "user": "bob",
            "device": "phone",
            "action": "write",
            "path": "photos/cat.jpg",
        }
    ]
    entry = {"user": "ann", "device": "laptop", "hash": "00"}
    people.rights_log = [
        entry
        | {
            "seq": 3,
            "at": "2030-01-01T00:00:00+00:00",
            "action": "grant.give",
            "detail": "9: music to dan, read only",
        },
        entry
        | {
            "seq": 2,
            "at": "2029-01-01T00:00:00+00:00",
            "action": "grant.give",
            "detail": "8: photos to bob, read only",
        },
        entry | {"seq": 1, "at": SINCE, "action": "member.add", "detail": "bob as editor"},
    ]
    people.intact = False
    assert cv("log", "ann:photos/cat.jpg") == 0
    shown = [line.split() for line in cv.out.splitlines()[1:]]
    assert [line[4] for line in shown] == ["grant.give", "write", "member.add"]
    assert "music" not in cv.out
    assert cv.err == "the log of rights is not intact: entries were changed or removed in the database\n"
    cv("log", "ann:photos/cat.jpg", "--json")
    assert json.loads(cv.out)["intact"] == {"files": True, "rights": False}


def test_a_space_that_nobody_has_mounted_yet_has_members_and_a_log(cv, enter, people, monkeypatch):
    enter("ann")
    monkeypatch.setattr("tests.fixtures.fakepeople.TREE", {})
    people.rights_log = [{"seq": 1, "at": SINCE, "user": "ann", "action": "space.create", "detail": "ann"}]
    assert [each["who"] for each in cv.json("who", "ann:")] == ["ann"]
    assert cv("log", "ann:") == 0
    assert "space.create" in cv.out
    assert cv("who", "ann:photos") == 1
