"""A pool outlives the database's restarts, and its absence is one kind of error."""

import asyncio
import time

import asyncpg
import pytest

from cloudverge_protocol.errors import Code, ProtocolFault, Unavailable
from cloudverge_wire.database import close_pool, connection, open_pool, read_dsn, transaction

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def open_one(database, anyio_backend):
    """Opens a pool on this test's database, and leaves no connection behind."""
    opened = []

    async def run(**options):
        opened.append(await open_pool(database, schema="public", **options))
        return opened[-1]

    yield run
    for pool in opened:
        await close_pool(pool, grace_s=0.1)


async def test_the_pool_works_again_after_a_crash_of_the_database(postgres, open_one):
    pool = await open_one()
    async with transaction(pool) as acquired:
        await acquired.execute("create table kept (id integer)")
    postgres.kill()
    try:
        started = time.monotonic()
        for _ in range(3):
            with pytest.raises(Unavailable) as caught:
                async with connection(pool) as acquired:
                    await acquired.fetchval("select 1")
            assert caught.value.code == Code.UNAVAILABLE
        assert time.monotonic() - started < 5
    finally:
        postgres.start()
    async with connection(pool) as acquired:
        assert await acquired.fetchval("select count(*) from kept") == 0


async def test_a_connection_cut_in_the_middle_is_unavailable_and_rolls_back(postgres, open_one):
    pool = await open_one()
    async with connection(pool) as acquired:
        await acquired.execute("create table kept (id integer)")
    with pytest.raises(Unavailable):
        async with transaction(pool) as acquired:
            await acquired.execute("insert into kept values (1)")
            pid = await acquired.fetchval("select pg_backend_pid()")
            await asyncio.to_thread(postgres.execute, f"select pg_terminate_backend({pid})")
            await acquired.fetchval("select pg_sleep(5)")
    async with connection(pool) as acquired:
        assert await acquired.fetchval("select count(*) from kept") == 0


async def test_an_exhausted_pool_is_unavailable_within_its_deadline(open_one, monkeypatch):
    monkeypatch.setattr("cloudverge_wire.database.ACQUIRE_WITHIN_S", 0.1)
    pool = await open_one(max_size=1)
    async with connection(pool):
        with pytest.raises(Unavailable):
            async with connection(pool):
                pass


async def test_opening_gives_up_when_nobody_answers():
    with pytest.raises(Unavailable):
        await open_pool("postgresql://nobody@127.0.0.1:1/none", schema="public", wait_s=0.3)


async def test_closing_cuts_a_connection_that_is_still_used(open_one):
    pool = await open_one()
    acquired = await pool.acquire()
    await close_pool(pool, grace_s=0.1)
    with pytest.raises(asyncpg.InterfaceError):
        await acquired.fetchval("select 1")


def test_the_dsn_comes_from_a_file(tmp_path):
    path = tmp_path / "dsn"
    with pytest.raises(ProtocolFault, match="cannot read"):
        read_dsn(path)
    path.write_text(" \n")
    with pytest.raises(ProtocolFault, match="empty"):
        read_dsn(path)
    path.write_text("postgresql://x\n")
    assert read_dsn(path) == "postgresql://x"
