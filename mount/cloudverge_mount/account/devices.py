"""The verb ``cv devices``: from where you are signed in, and ending one of them for ever."""

from typing import Annotated

import typer

from cloudverge_mount.account.flags import AsJson, Cluster, Server, User, wish_of
from cloudverge_mount.account.opening import run
from cloudverge_mount.account.people import People
from cloudverge_mount.account.printing import show
from cloudverge_mount.account.when import show_when

devices = typer.Typer(help="List the devices you signed in from; revoke one.")


@devices.callback(invoke_without_command=True)
def list_devices(
    context: typer.Context,
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
    as_json: AsJson = False,
) -> None:
    """List the devices you signed in from, with their last use."""
    if context.invoked_subcommand is not None:
        context.obj = wish_of(server, cluster, user)
        return

    async def ask(people: People) -> None:
        columns = {
            "ID": lambda device: device.id,
            "DEVICE": lambda device: device.name + (" (this one)" if device.current else ""),
            "SINCE": lambda device: show_when(device.created_at),
            "LAST USE": lambda device: show_when(device.seen_at),
        }
        show(await people.devices(), columns, as_json=as_json, none="no devices")

    run(wish_of(server, cluster, user), ask)


@devices.command("revoke")
def revoke_device(
    context: typer.Context,
    device: Annotated[int, typer.Argument(metavar="ID", min=1)],
    server: Server = "",
    cluster: Cluster = None,
    user: User = "",
) -> None:
    """Take a device's access away for ever; its mounts end."""

    async def ask(people: People) -> None:
        await people.revoke_device(device)
        typer.echo(f"device {device} is revoked")

    said = wish_of(server, cluster, user)
    run(said if said != wish_of("", None, "") else context.obj, ask)
