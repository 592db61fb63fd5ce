"""A real PostgreSQL of our own: who may read what, and that it comes back from every kind of death."""

import asyncio
import os
import signal
from collections.abc import Callable

import asyncpg
import pytest

from cloudverge_embedded.fleet import Fleet
from cloudverge_embedded.folder import Folder
from cloudverge_embedded.launcher import settle_folder
from cloudverge_embedded.secretfiles import read_dsn
from cloudverge_embedded.settings import Restart, Wish
from cloudverge_embedded.supervisor import load_plan


@pytest.fixture
def database(folder, fleet, wait_for, monkeypatch) -> Fleet:
    """A fleet of PostgreSQL and the task that makes roles and schemas, all ready."""
    monkeypatch.delenv("CLOUDVERGE_DSN", raising=False)
    folder.root.parent.chmod(0o700)  # as a home folder is: root's PostgreSQL must cope
    settle_folder(folder, Wish(), is_running=False)
    _, specs = load_plan(folder)
    fleet.follow(specs[:2], Restart.ALWAYS)
    fleet.request()
    wait_for(fleet, lambda: fleet.is_ready or fleet.troubles, 60)
    assert fleet.troubles == []
    return fleet


@pytest.fixture
def query(folder: Folder) -> Callable[..., object]:
    """One statement as one role; the first value of its result."""

    async def ask(role: str, statement: str) -> object:
        connection = await asyncpg.connect(read_dsn(folder, role), timeout=10)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return lambda role, statement: asyncio.run(ask(role, statement))


def test_each_role_has_its_schema_and_not_the_other(database, query):
    query("meta", "create table mine (a int)")
    assert query("meta", "select count(*) from meta.mine") == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        query("auth", "select count(*) from meta.mine")


def test_either_role_may_make_the_table_both_read(database, query):
    query("auth", "create table public.cluster (cluster text, history text)")
    query("meta", "insert into public.cluster values ('c', 'h')")
    query("meta", "create table if not exists public.cluster (cluster text, history text)")
    assert query("auth", "select cluster from public.cluster") == "c"


def test_a_wrong_password_is_refused_even_from_this_machine(database, query, folder):
    dsn = read_dsn(folder, "meta")
    password = dsn.split(":")[2].split("@")[0]
    folder.dsn_file("meta").write_text(dsn.replace(password, "wrong"))
    with pytest.raises(asyncpg.InvalidPasswordError):
        query("meta", "select 1")


def test_fsync_is_on_and_passwords_are_scram(database, query):
    assert query("owner", "show fsync") == "on"
    assert query("owner", "select bool_and(rolpassword like 'SCRAM-%') from pg_authid where rolcanlogin")


def test_a_killed_server_comes_back_with_every_committed_row(database, query, wait_for):
    query("meta", "create table mine as select 7 as a")
    postgres = database.children["postgres"]
    first = postgres.pid
    os.kill(first, signal.SIGKILL)
    wait_for(database, lambda: not database.is_ready)
    wait_for(database, lambda: database.is_ready, 60)
    assert postgres.pid != first
    assert query("meta", "select a from mine") == 7


def test_a_lock_file_whose_pid_now_belongs_to_a_stranger_does_not_stop_the_start(
    database, query, folder, wait_for
):
    os.kill(database.children["postgres"].pid, signal.SIGKILL)
    wait_for(database, lambda: not database.is_ready)
    lock_file = folder.postgres_data / "postmaster.pid"
    lines = lock_file.read_text().split("\n")
    lock_file.write_text("\n".join([str(os.getpid()), *lines[1:]]))
    wait_for(database, lambda: database.is_ready, 60)
    assert query("owner", "select 1") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives PostgreSQL another user")
def test_as_root_the_server_runs_as_somebody_else_and_opens_no_folder_above(database, folder):
    status = os.stat(f"/proc/{database.children['postgres'].pid}")
    assert status.st_uid == folder.postgres.stat().st_uid != 0
    assert folder.root.parent.stat().st_mode & 0o777 == 0o700
