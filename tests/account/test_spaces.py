"""Spaces, members, devices and administration through the command line."""

import pytest

from cloudverge_mount.account import prompts


def test_a_team_space_is_made_listed_and_deleted(cv, enter, people):
    enter("ann")
    assert cv("space", "create", "team") == 0
    assert "cvmount --space team" in cv.out
    assert [(each["name"], each["kind"]) for each in cv.json("space", "list")] == [
        ("ann", "personal"),
        ("team", "team"),
    ]
    assert cv("space", "delete", "team") == 1
    assert cv.err == "cv: team is not deleted: --yes if you mean it\n"
    assert cv("space", "delete", "team", "--yes") == 0
    assert [space["name"] for space in people.spaces.values()] == ["ann"]


def test_deleting_asks_whoever_is_there(cv, enter, people, monkeypatch):
    enter("ann")
    cv("space", "create", "team")
    monkeypatch.setattr(prompts, "at_terminal", lambda: True)
    assert cv("space", "delete", "team", stdin="n\n") == 1
    assert cv("space", "delete", "team", stdin="y\n") == 0


def test_a_space_is_named_by_name_or_number_and_an_unknown_one_is_refused(cv, enter):
    enter("ann")
    assert cv.json("member", "list", "ann") == cv.json("member", "list", "7")
    assert cv("member", "list", "8") == 1
    assert cv.err == "cv: you have no space 8 (yours: ann)\n"


def test_of_two_spaces_with_one_name_the_number_decides(cv, enter, people):
    enter("ann")
    people._new_space("ann", "bob", "team")
    people.members[8]["ann"] = "reader"
    assert cv("member", "list", "ann") == 1
    assert cv.err == "cv: several spaces are called ann: name one by its number, 7, 8\n"
    assert cv("member", "list", "8") == 0


def test_members_come_change_and_go(cv, enter, people):
    enter("ann")
    people.add("bob")
    assert cv("member", "add", "ann", "bob", "reader") == 0
    assert people.members[7] == {"ann": "owner", "bob": "reader"}
    assert cv("member", "role", "ann", "bob", "editor") == 0
    assert people.members[7]["bob"] == "editor"
    assert cv("member", "list", "ann") == 0
    assert cv.out.splitlines()[2].split()[:2] == ["bob", "editor"]
    assert cv("member", "remove", "ann", "bob") == 0
    assert people.members[7] == {"ann": "owner"}


def test_a_role_that_does_not_exist_is_wrong_usage_and_a_right_that_lacks_a_refusal(cv, enter, people):
    enter("ann")
    enter("bob")
    people.members[7]["bob"] = "editor"
    assert cv("member", "add", "ann", "cyd", "boss") == 2
    assert cv("member", "add", "ann", "cyd", "reader") == 1
    assert cv.err == "cv: this is for owners of the space\n"


def test_devices_are_listed_without_obeying_their_names_and_revoked(cv, enter, people):
    enter("ann")
    assert cv("devices") == 0
    assert "laptop (this one)" in cv.out
    assert "\x1b" not in cv.out
    assert cv.json("devices")[1]["id"] == 2
    assert cv("devices", "revoke", "2") == 0
    assert cv("devices", "revoke", "3") == 1
    assert cv.err == "cv: you have no such device\n"


def test_the_account_that_is_meant_can_be_named_before_the_inner_verb_too(cv, enter, people):
    enter("ann")
    enter("bob")
    assert cv("devices", "--user", "ann", "revoke", "2") == 0
    assert people.signed_in[str(len(people.signed_in))] == "ann"


def test_an_administrator_is_made_by_an_invitation_in_a_file(cv, enter, people, tmp_path):
    enter("ann")
    assert cv("admin", "policy") == 1
    assert cv.err == "cv: this is for administrators\n"
    (tmp_path / "invite").write_text("one-time\n")
    assert cv("admin", "claim", "--invite-file", tmp_path / "invite") == 0
    assert cv("admin", "policy", "closed") == 0
    assert people.policy == "closed"
    assert cv.json("admin", "policy") == {"sign_up": "closed"}


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (("user", "disable", "ann"), {"disabled": True}),
        (("user", "enable", "ann"), {"disabled": False}),
        (("user", "promote", "ann"), {"admin": True}),
        (("user", "demote", "ann"), {"admin": False}),
        (("quota", "user", "ann", "--bytes", "10G"), {"quota_bytes": 10 << 30}),
        (
            ("quota", "user", "ann", "--bytes", "none", "--files", "5000"),
            {"quota_bytes": 0, "quota_inodes": 5000},
        ),
    ],
)
def test_accounts_are_changed_in_one_respect_at_a_time(cv, enter, people, words, sent):
    enter("ann")
    assert cv("admin", *words) == 0
    assert people.body_of("PATCH", "/v1/admin/users/ann") == sent


def test_the_quota_of_a_space_is_set_by_its_number(cv, enter, people):
    enter("ann")
    assert cv("admin", "quota", "space", "7", "--bytes", "500MiB") == 0
    assert people.body_of("PATCH", "/v1/admin/spaces/7") == {"quota_bytes": 500 << 20}
    assert cv("admin", "quota", "space", "7") == 1
    assert cv("admin", "quota", "space", "7", "--bytes", "much") == 1
    assert "is no size" in cv.err


def test_an_invitation_is_the_only_thing_on_standard_output(cv, enter, people):
    enter("ann")
    assert cv("admin", "invite", "create", "--until", "7d") == 0
    assert cv.out == "come-in\n"
    assert people.body_of("POST", "/v1/admin/invites")["until"] > 0
    assert cv("admin", "invite", "list") == 0
    assert "used by bob" in cv.out
    assert cv("admin", "invite", "revoke", "4") == 0


def test_every_listing_has_json_and_words_for_nothing(cv, enter, people):
    enter("ann")
    for words in (["grants"], ["links"], ["admin", "user", "list"], ["admin", "log"], ["profiles"]):
        cv.json(*words)
        assert cv(*words) == 0
        assert cv.out.strip()
