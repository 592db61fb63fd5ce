"""The verbs ``cv space`` and ``cv member``: spaces, and who belongs to them as what."""

import enum
from typing import Annotated

import typer

from cloudverge_mount.account import prompts
from cloudverge_mount.account.flags import AsJson, Cluster, Server, User, wish_of
from cloudverge_mount.account.opening import run
from cloudverge_mount.account.people import People
from cloudverge_mount.account.printing import show, show_json
from cloudverge_mount.account.sizes import quota_in_words
from cloudverge_mount.account.when import show_when
from cloudverge_protocol.errors import Code, Refused


class Role(enum.StrEnum):
    """What a member may do: owners also say who belongs to the space, readers change nothing."""

    owner = "owner"
    editor = "editor"
    reader = "reader"


SpaceName = Annotated[str, typer.Argument(metavar="SPACE", help="Its name or number.")]
MemberName = Annotated[str, typer.Argument(metavar="USER")]
RoleName = Annotated[Role, typer.Argument(metavar="ROLE", help="owner, editor or reader.")]

space = typer.Typer(help="Create, list and delete spaces; each is a mount of its own.", no_args_is_help=True)
member = typer.Typer(
    help="Add, list and remove the members of a space; change their roles.", no_args_is_help=True
)


@space.command("create")
def create_space(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
    as_json: AsJson = False,
) -> None:
    """Make a team space, whose owner you are."""

    async def ask(people: People) -> None:
        made = await people.create_space(name)
        if as_json:
            show_json(made)
        else:
            typer.echo(f"space {made.name} is number {made.id}: cvmount --space {made.name} DIR mounts it")

    run(wish_of(server, cluster, user), ask)


@space.command("list")
def list_spaces(
    server: Server = "", cluster: Cluster = None, user: User = "", as_json: AsJson = False
) -> None:
    """List the spaces you belong to."""

    async def ask(people: People) -> None:
        columns = {
            "ID": lambda each: each.id,
            "SPACE": lambda each: each.name,
            "ROLE": lambda each: each.role,
            "KIND": lambda each: each.kind,
            "OWNER": lambda each: each.owner,
            "QUOTA": lambda each: quota_in_words(each.quota_bytes, each.quota_inodes),
        }
        show(await people.spaces(), columns, as_json=as_json, none="you belong to no space")

    run(wish_of(server, cluster, user), ask)


@space.command("delete")
def delete_space(
    name: SpaceName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
) -> None:
    """Delete a team space of yours, with everything in it, for everybody and for ever."""

    async def ask(people: People) -> None:
        found = await people.space(name)
        question = f"Delete the space {found.name} (number {found.id}) with everything in it?"
        if not yes and not prompts.confirm(question):
            raise Refused(Code.INVALID, f"{found.name} is not deleted: --yes if you mean it")
        await people.delete_space(found.id)
        typer.echo(f"space {found.name} is deleted")

    run(wish_of(server, cluster, user), ask)


@member.command("add")
def add_member(
    name: SpaceName,
    who: MemberName,
    role: RoleName = Role.editor,
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
) -> None:
    """Let somebody in, as an editor if nothing else is said."""

    async def ask(people: People) -> None:
        found = await people.space(name)
        await people.add_member(found.id, who, role.value)
        typer.echo(
            f"{who} is {role.value} of {found.name}: cvmount --space {found.id} DIR is how to mount it"
        )

    run(wish_of(server, cluster, user), ask)


@member.command("list")
def list_members(
    name: SpaceName, server: Server = "", cluster: Cluster = None, user: User = "", as_json: AsJson = False
) -> None:
    """List who belongs to a space."""

    async def ask(people: People) -> None:
        columns = {
            "USER": lambda each: each.user,
            "ROLE": lambda each: each.role,
            "SINCE": lambda each: show_when(each.since),
        }
        found = await people.space(name)
        show(await people.members(found.id), columns, as_json=as_json, none="nobody")

    run(wish_of(server, cluster, user), ask)


@member.command("role")
def change_role(
    name: SpaceName,
    who: MemberName,
    role: RoleName,
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
) -> None:
    """Give a member another role."""

    async def ask(people: People) -> None:
        found = await people.space(name)
        await people.change_role(found.id, who, role.value)
        typer.echo(f"{who} is {role.value} of {found.name}")

    run(wish_of(server, cluster, user), ask)


@member.command("remove")
def remove_member(
    name: SpaceName, who: MemberName, server: Server = "", cluster: Cluster = None, user: User = ""
) -> None:
    """Take somebody's access away, with all grants and links he gave; also your own."""

    async def ask(people: People) -> None:
        found = await people.space(name)
        await people.remove_member(found.id, who)
        typer.echo(f"{who} does not belong to {found.name} any more")

    run(wish_of(server, cluster, user), ask)
