"""Migrations on a real database: once each, in order, by one of many, never silently changed."""

import asyncio
import sys

import asyncpg
import pytest

from cloudverge_protocol.errors import Code, ProtocolFault
from cloudverge_wire.clusterid import ensure_cluster
from cloudverge_wire.migrate import load_migrations, migrate

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


FIRST = "create table things (id integer primary key);\ninsert into things values (1);"
SECOND = "alter table things add column name text not null default 'x';"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with two migrations; write into its ``schema`` folder to change it."""
    folder = tmp_path / "a_room"
    (folder / "schema").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "schema" / "0001_things.sql").write_text(FIRST)
    (folder / "schema" / "0002_names.sql").write_text(SECOND)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    sys.modules.pop("a_room", None)


@pytest.fixture
async def pool(database, anyio_backend):
    async with asyncpg.create_pool(database, min_size=0, max_size=8) as made:
        yield made


async def test_files_are_applied_in_order_and_a_second_time_is_harmless(pool, package):
    assert await migrate(pool, "a_room", "room") == ["0001_things.sql", "0002_names.sql"]
    assert await migrate(pool, "a_room", "room") == []
    assert await pool.fetchval("select count(*) from room.things where name = 'x'") == 1


async def test_many_servers_starting_at_once_apply_each_file_once(pool, package):
    done = await asyncio.gather(*(migrate(pool, "a_room", "room") for _ in range(8)))
    assert sorted(name for names in done for name in names) == ["0001_things.sql", "0002_names.sql"]
    assert await pool.fetchval("select count(*) from room.things") == 1


async def test_a_single_connection_will_do(database, package):
    connection = await asyncpg.connect(database)
    assert len(await migrate(connection, "a_room", "room")) == 2
    await connection.close()


async def test_two_rooms_do_not_see_each_other(pool, package):
    await migrate(pool, "a_room", "room")
    assert len(await migrate(pool, "a_room", "other")) == 2


async def test_a_failing_file_leaves_nothing_behind(pool, package):
    (package / "schema" / "0002_names.sql").write_text("create table half (id integer); select 1/0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(pool, "a_room", "room")
    assert await pool.fetchval("select to_regclass('room.half')") is None
    (package / "schema" / "0002_names.sql").write_text(SECOND)
    assert await migrate(pool, "a_room", "room") == ["0002_names.sql"]


async def test_a_released_file_that_changed_is_refused(pool, package):
    await migrate(pool, "a_room", "room")
    (package / "schema" / "0001_things.sql").write_text(FIRST + " -- edited")
    with pytest.raises(ProtocolFault, match="migration 1") as caught:
        await migrate(pool, "a_room", "room")
    assert caught.value.code == Code.VERSION


async def test_a_database_newer_than_the_software_is_refused(pool, package):
    await migrate(pool, "a_room", "room")
    (package / "schema" / "0002_names.sql").unlink()
    with pytest.raises(ProtocolFault, match="newer"):
        await migrate(pool, "a_room", "room")


def test_a_gap_in_the_numbers_is_a_mistake_of_ours(package):
    (package / "schema" / "0004_gap.sql").write_text("select 1;")
    with pytest.raises(AssertionError):
        load_migrations("a_room")


async def test_a_role_without_create_right_uses_the_schema_it_was_given(pool, database, package):
    await pool.execute("drop role if exists modest")
    await pool.execute("create role modest login")
    try:
        await pool.execute("create schema room authorization modest")
        connection = await asyncpg.connect(database, user="modest")
        assert len(await migrate(connection, "a_room", "room")) == 2
        await connection.close()
    finally:
        await pool.execute("drop owned by modest cascade")
        await pool.execute("drop role modest")


async def test_whoever_comes_first_names_the_cluster_and_all_others_agree(pool):
    named = await asyncio.gather(*(ensure_cluster(pool) for _ in range(8)))
    assert len(set(named)) == 1
    assert len(named[0].cluster) == len(named[0].history) == 32


async def test_a_wanted_cluster_id_is_taken_by_an_empty_database_only(pool):
    wanted = "0123456789abcdef" * 2
    assert (await ensure_cluster(pool, wanted)).cluster == wanted
    assert (await ensure_cluster(pool)).cluster == wanted
    with pytest.raises(ProtocolFault) as caught:
        await ensure_cluster(pool, "f" * 32)
    assert caught.value.code == Code.WRONG_CLUSTER
    with pytest.raises(ProtocolFault):
        await ensure_cluster(pool, "not an id")
