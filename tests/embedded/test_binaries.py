"""Which PostgreSQL is taken."""

from pathlib import Path

from cloudverge_embedded.binaries import Binaries, choose, major_of, parse_version

OLD = Binaries(Path("/old"), (15, 18))
NEW = Binaries(Path("/new"), (18, 4))


def test_versions_are_read_from_what_postgres_says():
    assert parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n") == (15, 18)
    assert parse_version("postgres (PostgreSQL) 19devel") == (19, 0)
    assert parse_version("something else") is None


def test_the_first_is_taken_for_a_new_folder():
    assert choose([NEW, OLD], None) == NEW


def test_an_existing_folder_gets_the_version_that_made_it():
    assert choose([NEW, OLD], 15) == OLD
    assert choose([NEW, OLD], 16) is None


def test_the_version_of_a_folder_is_read_from_it(tmp_path):
    assert major_of(tmp_path) is None
    (tmp_path / "PG_VERSION").write_text("15\n")
    assert major_of(tmp_path) == 15
