"""Tables: who can reach what by which rule; moments and sizes as people write them; which log lines concern a path."""

from datetime import datetime
from pathlib import Path

import pytest

from cloudverge_mount.account.answers import Grant, LogEntry, Member
from cloudverge_mount.account.choice import Choice, Wish, choose, same_form
from cloudverge_mount.account.history import concerns
from cloudverge_mount.account.printing import clean, table
from cloudverge_mount.account.reach import who_reaches, why
from cloudverge_mount.account.sizes import parse_count, parse_size
from cloudverge_mount.account.when import parse_when, seconds_of, show_when
from cloudverge_mount.credentials import Credentials
from cloudverge_protocol.errors import Refused

NOW = 1_800_000_000.0
PHOTOS, CAT = (1, 2), (1, 2, 3)
ANN = Member("ann", "owner")


def grant(number=1, kind="user", root=2, **settings):
    return Grant(number, kind, 7, root, **{"path": "photos", "to": "bob", "by": "ann", "until": 0} | settings)


# members, grants, chain -> may bob (read, write)
CASES = {
    "nobody": ([ANN], [], CAT, (False, False)),
    "reader": ([ANN, Member("bob", "reader")], [], CAT, (True, False)),
    "editor": ([ANN, Member("bob", "editor")], [], CAT, (True, True)),
    "granted to read": ([ANN], [grant()], CAT, (True, False)),
    "granted to write": ([ANN], [grant(rw=True)], CAT, (True, True)),
    "the folder itself": ([ANN], [grant()], PHOTOS, (True, False)),
    "above it": ([ANN], [grant()], (1,), (False, False)),
    "beside it": ([ANN], [grant()], (1, 4), (False, False)),
    "the whole space": ([ANN], [grant(root=1, path="/")], (1, 4), (True, False)),
    "to another": ([ANN], [grant(to="cyd")], CAT, (False, False)),
    "ended": ([ANN], [grant(until=NOW - 1)], CAT, (False, False)),
    "ends now": ([ANN], [grant(until=NOW)], CAT, (False, False)),
    "ends later": ([ANN], [grant(until=NOW + 1)], CAT, (True, False)),
    "by one who left": ([ANN], [grant(by="cyd")], CAT, (False, False)),
    "by one who only reads now": ([ANN, Member("cyd", "reader")], [grant(by="cyd")], CAT, (False, False)),
    "by an editor": ([ANN, Member("cyd", "editor")], [grant(by="cyd")], CAT, (True, False)),
    "a machine's token": ([ANN], [grant(kind="token", to="", label="camera")], CAT, (False, False)),
    "a reader with a grant to write": ([ANN, Member("bob", "reader")], [grant(rw=True)], CAT, (True, True)),
    "two grants": ([ANN], [grant(until=NOW - 1), grant(2)], CAT, (True, False)),
}


@pytest.mark.parametrize("name", CASES)
def test_why_decides_as_the_servers_do(name):
    members, grants, chain, (read, write) = CASES[name]
    verdict = why("bob", members, grants, chain, NOW)
    assert (verdict.may, verdict.may_write) == (read, write)
    assert verdict.allowed or verdict.looked_at
    reaching = {each.who for each in who_reaches(members, grants, chain, NOW)}
    assert ("bob" in reaching) == read
    assert "ann" in reaching


def test_everything_that_was_looked_at_is_told_with_its_reason():
    grants = [
        grant(until=NOW - 1),
        grant(2, root=4, path="music"),
        grant(3, by="cyd"),
        grant(4, kind="link", root=3),
    ]
    verdict = why("bob", [ANN], grants, CAT, NOW)
    told = "\n".join(verdict.looked_at)
    for words in (
        "no member",
        "grant 1: ended on",
        "grant 2: gives music",
        "grant 3: cyd, who gave it",
        "link 4: lets in",
    ):
        assert words in told


def test_a_link_reaches_its_file_while_it_has_downloads_left():
    def reaching(chain, **settings):
        link = grant(kind="link", root=3, to="", path="photos/cat.jpg", **settings)
        return [each.who for each in who_reaches([ANN], [link], chain, NOW)]

    assert reaching(CAT) == ["ann", "whoever has the link"]
    assert reaching(CAT, downloads=1, max_downloads=2) == ["ann", "whoever has the link"]
    assert reaching(CAT, downloads=2, max_downloads=2) == ["ann"]
    assert reaching(PHOTOS) == ["ann"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600), ("90s", 90), (" 1h ", 3600)],
)
def test_a_duration_counts_from_now(text, seconds):
    assert parse_when(text, NOW) == NOW + seconds


def test_a_date_is_its_first_instant_here_and_an_offset_counts():
    assert parse_when("2030-01-01", NOW) == datetime(2030, 1, 1).timestamp()
    assert parse_when("2030-01-01T18:30", NOW) == datetime(2030, 1, 1, 18, 30).timestamp()
    assert parse_when("2030-01-01 18:30", NOW) == datetime(2030, 1, 1, 18, 30).timestamp()
    assert parse_when("2030-01-01T00:00Z", NOW) == 1_893_456_000
    assert parse_when("2030-01-01T00:00+02:00", NOW) == 1_893_456_000 - 7200


@pytest.mark.parametrize(
    "text", ["", "soon", "7", "d", "-7d", "7x", "2030-13-01", "0d", "2020-01-01", "99999999d", "7d7d"]
)
def test_what_is_no_time_to_come_is_refused(text):
    with pytest.raises(Refused):
        parse_when(text, NOW)


def test_moments_are_shown_in_local_time_whatever_the_server_tells():
    local = f"{datetime.fromtimestamp(1_893_456_000):%Y-%m-%d %H:%M}"
    assert (
        show_when(1_893_456_000)
        == show_when("2030-01-01T00:00:00+00:00")
        == show_when("2030-01-01T00:00:00Z")
        == local
    )
    assert seconds_of("2030-01-01T01:00:00+01:00") == 1_893_456_000
    assert show_when(None, "no end") == "no end"
    assert show_when("garbage") == "garbage"


@pytest.mark.parametrize(
    ("text", "size"),
    [("none", 0), ("1", 1), ("10k", 10_240), ("500M", 500 << 20), ("1.5GiB", 3 << 29), ("2 TB", 2 << 40)],
)
def test_sizes_are_read_in_powers_of_1024(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "ten", "10X", "9999999P"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(Refused):
        parse_size(text)
    with pytest.raises(Refused):
        parse_count(text)


@pytest.mark.parametrize(
    ("action", "detail", "expected"),
    [
        ("member.add", "bob as editor", True),
        ("grant.give", "1: photos to bob, read only", True),
        ("grant.give", "1: / to bob, read only", True),
        ("grant.give", "1: photos/2026 to bob, read only", True),
        ("grant.give", "1: photos/2026/may to bob", True),
        ("grant.give", "1: photographs to bob, read only", False),
        ("grant.give", "1: music to bob, read only", False),
        ("grant.give", "5: renamed since to bob, read only", True),
        ("token.make", "1: photos for camera, read and write", True),
        ("link.make", "1: photos/2026, no end", True),
        ("link.end", "1: photos", True),
        ("link.end", "1: photos/2025", False),
    ],
)
def test_a_change_of_rights_concerns_the_paths_on_the_way_and_below(action, detail, expected):
    assert concerns(LogEntry(1, 0.0, action=action, detail=detail), "photos/2026", {5}) == expected


def test_every_change_of_rights_concerns_the_root():
    assert concerns(LogEntry(1, 0.0, action="link.make", detail="1: photos/cat.jpg, no end"), "/", ())


def test_what_others_named_is_shown_and_never_obeyed():
    assert clean("a\x1b[2Jb\nc\u202e") == "a\\x1b[2Jb\\nc\\u202e"
    assert clean("Übersicht 写真 🙂") == "Übersicht 写真 🙂"
    assert table([["A", "LONG"], ["long", "x"]]) == "A     LONG\nlong  x"


HERE = "/srv/cluster"
PROFILES = [
    Credentials("c1", "ann", server="https://one"),
    Credentials("c1", "bob", server="https://one"),
    Credentials("c2", "ann", server="https://two"),
    Credentials("c3", "cyd", folder=HERE),
    Credentials("c4", "dan"),  # of before: it is not known where
]


def said(wish, current=None):
    try:
        choice = choose(wish, PROFILES, current, Path("/default"))
    except Refused as refusal:
        return refusal.message
    return (choice.server or str(choice.folder), choice.user, choice.profile is not None)


def test_the_account_that_is_meant():
    one_ann, one_bob, two_ann = PROFILES[:3]
    assert said(Wish()) == ("/default", "", False)
    assert said(Wish(), two_ann) == ("https://two", "ann", True)
    assert said(Wish(), PROFILES[4]) == ("/default", "", False)
    assert said(Wish("https://two")) == ("https://two", "ann", True)
    assert said(Wish("HTTPS://Two/")) == ("https://two", "ann", True)
    assert said(Wish("https://one")) == "several users are signed in at https://one: say --user NAME"
    assert said(Wish("https://one"), one_bob) == ("https://one", "bob", True)
    assert said(Wish("https://one", user="ann"), two_ann) == ("https://one", "ann", True)
    assert said(Wish("https://one", user="cyd")) == ("https://one", "cyd", False)
    assert said(Wish(user="ann")) == "ann is signed in at several servers: say --server URL"
    assert said(Wish(user="ann"), one_ann) == ("https://one", "ann", True)
    assert said(Wish(user="eve"), one_ann) == ("/default", "eve", False)
    assert said(Wish(user="dan")) == ("/default", "dan", False)
    assert said(Wish(cluster=Path(HERE)), one_ann) == (HERE, "", False)
    assert said(Wish(cluster=Path(HERE), user="cyd")) == (HERE, "cyd", True)
    assert isinstance(choose(Wish(), [], None, Path("/default")), Choice)


def test_a_url_has_one_spelling():
    assert same_form("HTTPS://Files.Example.ORG:8443/Path/") == "https://files.example.org:8443/Path"
