"""The verbs ``cv who``, ``cv why`` and ``cv log``: who can reach a path, by which rule, and what was done to it."""

import time
from dataclasses import asdict
from typing import Annotated

import typer

from cloudverge_mount.account.answers import Grant, Log, LogEntry, Member
from cloudverge_mount.account.flags import AsJson, Cluster, Server, User, wish_of
from cloudverge_mount.account.history import Line, merged
from cloudverge_mount.account.opening import run
from cloudverge_mount.account.paths import Found, find, locate_here, refuse_in_grant, wish_for
from cloudverge_mount.account.people import People
from cloudverge_mount.account.printing import clean, say, show, show_json
from cloudverge_mount.account.reach import Reach, Verdict, who_reaches, why_not
from cloudverge_mount.account.reach import why as why_reaches
from cloudverge_mount.account.sharing import PathText
from cloudverge_mount.account.when import show_when
from cloudverge_protocol.errors import Code, Refused

NEWEST = 50
PAGES_MAX = 100


async def _rules(people: People, found: Found) -> tuple[list[Member], list[Grant], bool]:
    """Members and grants of the space; false if there may be grants by others that the caller is not shown."""
    members = await people.members(found.space)
    grants = [
        each for each in await people.grants() if each.space == found.space and each.direction == "given"
    ]
    return members, grants, found.ticket.role == "owner"


def who(
    path: PathText, server: Server = "", cluster: Cluster = None, user: User = "", as_json: AsJson = False
) -> None:
    """Show everyone who can reach a path, as what and by which rule."""
    located = locate_here(path)
    refuse_in_grant(located)

    async def ask(people: People) -> None:
        found = await find(people, located)
        members, grants, complete = await _rules(people, found)
        columns = {
            "WHO": lambda each: each.who,
            "MAY": _may,
            "BY": lambda each: each.rule,
        }
        reaching = who_reaches(members, grants, found.chain, time.time())
        show(reaching, columns, as_json=as_json, none="nobody")
        _say_if_partial(complete)

    run(wish_for(located, wish_of(server, cluster, user)), ask)


def why(
    path: PathText,
    whom: Annotated[str, typer.Argument(metavar="USER")],
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
    as_json: AsJson = False,
) -> None:
    """Show the rule by which a user can reach a path, or what was looked at and does not help."""
    located = locate_here(path)
    refuse_in_grant(located)

    async def ask(people: People) -> None:
        found = await find(people, located)
        members, grants, complete = await _rules(people, found)
        verdict = why_reaches(whom, members, grants, found.chain, time.time())
        if as_json:
            show_json(asdict(verdict) | {"may_read": verdict.may, "may_write": verdict.may_write})
        else:
            typer.echo(_in_words(verdict, found.path))
        _say_if_partial(complete)

    run(wish_for(located, wish_of(server, cluster, user)), ask)


def _in_words(verdict: Verdict, path: str) -> str:
    if verdict.may:
        right = "read and change" if verdict.may_write else "read"
        lines = [f"{verdict.user} may {right} {path}:"]
        lines += [f"  as {each.role}: {each.rule}" for each in verdict.allowed]
    else:
        lines = [f"{verdict.user} may not reach {path}:"]
    lines += [f"  {each}" for each in verdict.looked_at]
    return "\n".join(clean(line) for line in lines)


def _may(reach: Reach) -> str:
    return {"owner": "own", "editor": "read, write", "reader": "read"}.get(reach.role, reach.role)


def _say_if_partial(complete: bool) -> None:
    if not complete:
        say("of grants and links you see your own only: an owner of the space sees all")


def log(
    path: PathText,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000)] = NEWEST,
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
    as_json: AsJson = False,
) -> None:
    """Show what was done to a path and to the rights on it, by whom and from which device; newest first."""
    located = locate_here(path)
    refuse_in_grant(located)

    async def ask(people: People) -> None:
        found = await find(people, located)
        files = await _files_log(people, found, limit)
        rights = await people.rights_log(found.space, limit=1000)
        members, grants, _ = await _rules(people, found)
        now_s = time.time()
        reaching = [each for each in grants if not why_not(each, members, found.chain, now_s)]
        lines = merged(files, rights, found.path, reaching, limit)
        if as_json:
            intact = {"files": files.intact, "rights": rights.intact}
            show_json({"entries": lines, "intact": intact})
        else:
            show(lines, _LOG_COLUMNS, as_json=False, none="nothing was done to it")
        _say_if_broken(files, rights)

    run(wish_for(located, wish_of(server, cluster, user)), ask)


async def _pages(people: People, found: Found, limit: int, *, below: bool) -> Log:
    """As many pages as ``limit`` entries take: a server looks through so much of a large log at a time."""
    entries: list[LogEntry] = []
    intact, before = True, None
    for _ in range(PAGES_MAX):
        page = await people.files_log(
            found.ticket, found.thing.ino, below=below, before=before, limit=limit - len(entries)
        )
        entries += page.entries
        intact, before = intact and page.intact, page.next
        if before is None or len(entries) >= limit:
            break
    return Log(entries, intact, before)


async def _files_log(people: People, found: Found, limit: int) -> Log:
    try:
        below = found.thing.kind == "folder"
        return await _pages(people, found, limit, below=below)
    except Refused as error:
        if error.code != Code.NOT_FOUND:
            raise
        return Log([])  # nobody has mounted the space yet


_LOG_COLUMNS = {
    "WHEN": lambda line: show_when(line.at),
    "WHO": lambda line: line.user or "the operator",
    "DEVICE": lambda line: line.device,
    "WHAT": lambda line: line.action,
    "": lambda line: _what_of(line),
}


def _what_of(line: Line) -> str:
    return "  ".join(part for part in (line.path, line.detail) if part)


def _say_if_broken(files: Log, rights: Log) -> None:
    for name, told in (("files", files), ("rights", rights)):
        if not told.intact:
            say(f"the log of {name} is not intact: entries were changed or removed in the database")
