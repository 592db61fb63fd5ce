"""``cvmount``: mount a space, or what somebody granted. Parses, makes the mountpoint ready, starts an embedded cluster
if one is meant and none runs, then has the mount served in the background and returns 0 when it is mounted.
"""

import argparse
import getpass
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

import trio

from cloudverge_mount import logs
from cloudverge_mount.account.choice import Wish, same_form
from cloudverge_mount.account.opening import chosen
from cloudverge_mount.account.profiles import Profiles
from cloudverge_mount.account.prompts import at_terminal, secret_in
from cloudverge_mount.account.trust import trusted_ca
from cloudverge_mount.admittance import locate, make_identity
from cloudverge_mount.assemble import MountProcess
from cloudverge_mount.authclient import AuthClient
from cloudverge_mount.config import MountConfig
from cloudverge_mount.daemon import Announcer, in_background, log_file
from cloudverge_mount.endpoints import supervisor_runs
from cloudverge_mount.exits import complain
from cloudverge_mount.identity import Identity
from cloudverge_mount.mountpoints import prepare, resolve
from cloudverge_mount.options import MountOptions, parse_options
from cloudverge_mount.username import user_name
from cloudverge_protocol.errors import CloudVergeError, Code, Refused, Unavailable

CLUSTER_START_S: Final = 180.0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="cvmount",
        description="Mount your CloudVerge space as a folder. Without --cluster and --server it is that of your "
        "current profile (cv login), or lies on a cluster of this machine in your data folder, which is started if "
        "need be.",
    )
    parser.add_argument("mountpoint", type=Path, help="a folder; made if it does not exist")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--cluster", type=Path, metavar="DIR", help="the folder of a cluster of this machine")
    where.add_argument("--server", metavar="URL", help="the auth server of a cluster elsewhere")
    parser.add_argument("--metaserver", metavar="HOST[:PORT]", help="with --server; else as auth tells")
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="with --server: the cluster's own CA; else the pinned one"
    )
    parser.add_argument("--user", default="", help="your name in the cluster; else who signed in")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--space", default="", help="name or number of the space; else your first")
    what.add_argument("--grant", type=int, metavar="ID", help="what somebody granted you: cv grants")
    what.add_argument(
        "--token-file", type=Path, metavar="FILE", help="a machine's token, in a file of mode 0600"
    )
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="all state kept on this machine")
    parser.add_argument("--foreground", action="store_true", help="stay, and log to stderr")
    parser.add_argument(
        "-o", dest="options", action="append", default=[], metavar="OPTIONS",
        help="mount options: preserve_owner, allow_other, ro, suid, dev, noatime, ...",
    )  # fmt: skip
    return parser


def _absolute(path: Path | str | None) -> Path | None:
    return Path(os.path.abspath(Path(path).expanduser())) if path else None


def make_config(arguments: argparse.Namespace, profiles: Profiles | None = None) -> MountConfig:
    """What is to be mounted where; ``-o`` may name what has a flag of its own too, for fstab."""
    options: MountOptions = parse_options(arguments.options)
    values = options.values
    token_file = _absolute(arguments.token_file or values.get("token-file"))
    choice = chosen(
        Wish(
            arguments.server or values.get("server", ""),
            _absolute(arguments.cluster or values.get("cluster")),
            arguments.user or values.get("login", ""),
        ),
        profiles or Profiles(),
    )
    return MountConfig(
        mountpoint=resolve(arguments.mountpoint),
        cluster_folder=choice.folder,
        server_url=choice.server or None,
        metaserver=arguments.metaserver or values.get("metaserver"),
        ca=_absolute(arguments.ca or values.get("ca")),
        ca_pem=choice.profile.ca if choice.profile else "",
        user=choice.user,
        space=arguments.space or values.get("space", ""),
        grant=arguments.grant or _number(values.get("grant")),
        machine_token=secret_in(token_file, "token", private=True) if token_file else "",
        cache_folder=_absolute(arguments.cache_dir or values.get("cache-dir")),
        options=options,
        foreground=arguments.foreground,
        uid=int(values.get("uid", os.getuid())),
        gid=int(values.get("gid", os.getgid())),
    )


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal():
        raise Refused(Code.INVALID, f"grant={text!r} is no number: cv grants lists them")
    return int(text)


def start_cluster(folder: Path) -> None:
    """Start the embedded cluster in ``folder`` unless it runs: by ``cv up``, which waits until it is ready."""
    if supervisor_runs(folder):
        return
    beside = Path(sys.executable).parent / "cv"
    command = str(beside) if beside.exists() else shutil.which("cv")
    if command is None:
        raise Unavailable(Code.UNAVAILABLE, 'there is no command cv: pip install "cloudverge[embedded]"')
    try:
        ended = subprocess.run(
            [command, "up", "--json", "--dir", str(folder)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=CLUSTER_START_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unavailable(Code.TIMEOUT, f"the cluster in {folder} did not start in time") from None
    if ended.returncode:
        raise Unavailable(Code.UNAVAILABLE, f"the cluster in {folder} could not be started")


def sign_in_elsewhere(config: MountConfig, profiles: Profiles | None = None) -> MountConfig:
    """With a server elsewhere: trust it and sign in, if that is not done and somebody is there to do it."""
    store = profiles or Profiles()
    server = same_form(config.server_url or "")
    if any(each.server == server and each.user == config.user for each in store.all()):
        return config

    async def do() -> MountConfig:
        trusted = config if config.ca or config.ca_pem else await _trusting(config)
        if trusted.machine_token:
            return trusted
        endpoints = locate(trusted)
        async with AuthClient(endpoints.auth_url, endpoints.tls()) as auth:
            cluster = (await auth.keys()).cluster
            known = [
                each for each in store.all() if each.cluster == cluster and config.user in ("", each.user)
            ]
            if len(known) == 1:
                return replace(trusted, user=known[0].user)
            named = replace(trusted, user=config.user or user_name())
            password = _typed_password(named)
            if password:
                identity = make_identity(named, cluster, auth, store)
                assert isinstance(identity, Identity)
                await identity.sign_in_with(password)
            return named

    return trio.run(do)


async def _trusting(config: MountConfig) -> MountConfig:
    """Plain HTTP, and a CA that the system knows, need no pin."""
    url = config.server_url or ""
    pem = await trusted_ca(url) if url.lower().startswith("https:") else ""
    return replace(config, ca_pem=pem)


def _typed_password(config: MountConfig) -> str:
    password = os.environ.get("CLOUDVERGE_PASSWORD", "")
    if not password and at_terminal():
        password = getpass.getpass(f"password of {config.user} at {config.server_url}: ")
    return password


def serve(config: MountConfig, announcer: Announcer) -> None:
    """Serve the mount until it ends."""

    def log_to(cache_folder: Path) -> None:
        if not config.foreground:
            logs.set_up(log_file(cache_folder))

    process = MountProcess(config, log_to=log_to, mounted=announcer.mounted)
    try:
        trio.run(process.run, restrict_keyboard_interrupt_to_checkpoints=True)
    except BaseExceptionGroup as group:
        raise sole_error(group) from None


def sole_error(error: BaseException) -> BaseException:
    """What a nursery wrapped up, if it is one error: that is what people are to be told."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def mount(config: MountConfig) -> None:
    """Do it; returns when it is mounted, or in the foreground when it has ended."""
    prepare(config.mountpoint, nonempty=config.options.nonempty)
    if config.cluster_folder is not None:
        start_cluster(config.cluster_folder)
    else:
        config = sign_in_elsewhere(config)
    if config.foreground:
        serve(config, Announcer(-1))
    else:
        in_background(lambda announcer: serve(config, announcer))


def main() -> NoReturn:
    """Entry point of ``cvmount``."""
    arguments = build_parser().parse_args()
    logs.set_up()
    try:
        mount(make_config(arguments))
    except CloudVergeError as error:
        sys.exit(complain("cvmount", error))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


if __name__ == "__main__":
    main()
