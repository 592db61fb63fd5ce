"""``mount.fuse.cloudverge``: the helper that mount(8) calls, so that ``mount -t fuse.cloudverge`` and fstab work.

    DEVICE MOUNTPOINT [-sfnv] [-N namespace] [-o OPTIONS]

A device names a cluster and, after the last ``#``, a space: ``/srv/cluster#photos`` (a cluster folder of this
machine), ``https://files.example.org#photos`` (an auth server), ``cloudverge`` or ``none`` (the default cluster).
The device is shown as the mount's source just as it was given, so that ``mount -a`` knows it is mounted already.
"""

import argparse
import sys
from typing import Final, NoReturn

from cloudverge_mount import logs
from cloudverge_mount.cvmount import build_parser, make_config, mount
from cloudverge_mount.exits import complain
from cloudverge_protocol.errors import CloudVergeError, Code, Refused

MOUNT_FAILED: Final = 32  # as mount(8) has it
DEFAULT_DEVICES: Final = ("cloudverge", "none", "")


def split_device(device: str) -> dict[str, str]:
    """What a device name says, as mount options. Pure; raises Refused."""
    where, _, space = device.partition("#")
    named = {"space": space} if space else {}
    if where in DEFAULT_DEVICES:
        return named
    if where.startswith("/"):
        return named | {"cluster": where}
    if where.startswith(("http://", "https://")):
        return named | {"server": where}
    raise Refused(Code.INVALID, f"{device!r} is no device: a cluster folder, a URL or cloudverge is expected")


def arguments_of(argv: list[str]) -> list[str] | None:
    """The cvmount command line for one of mount(8); None if nothing is to be done (-f)."""
    parser = argparse.ArgumentParser(prog="mount.fuse.cloudverge", add_help=False)
    parser.add_argument("device")
    parser.add_argument("mountpoint")
    parser.add_argument("-s", "-n", "-v", dest="ignored", action="store_true")
    parser.add_argument("-f", dest="fake", action="store_true")
    parser.add_argument("-N", dest="namespace")
    parser.add_argument("-t", dest="kind")
    parser.add_argument("-o", dest="options", action="append", default=[])
    given = parser.parse_args(argv)
    if given.fake:
        return None
    options = [f"{name}={value}" for name, value in split_device(given.device).items()]
    options += [*given.options, f"fsname={given.device}"]
    return ["-o", ",".join(options), "--", given.mountpoint]


def main() -> NoReturn:
    """Entry point of ``mount.fuse.cloudverge``."""
    logs.set_up()
    try:
        arguments = arguments_of(sys.argv[1:])
        if arguments is not None:
            mount(make_config(build_parser().parse_args(arguments)))
    except CloudVergeError as error:
        complain("mount.fuse.cloudverge", error)
        sys.exit(MOUNT_FAILED)
    sys.exit(0)


if __name__ == "__main__":
    main()
