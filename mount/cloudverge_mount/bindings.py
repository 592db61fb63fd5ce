"""Which binding serves a mount: pyfuse3, or our own, which needs no libfuse and no compiler (``-o fuse=``)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from cloudverge_mount.directmount import DirectMount
from cloudverge_mount.filesystem import FileSystem
from cloudverge_mount.kernelmount import PATIENCE_S, KernelMount
from cloudverge_mount.options import MountOptions
from cloudverge_protocol.errors import Code, Refused

DIRECT: Final = "direct"
PYFUSE3: Final = "pyfuse3"


def choose(wanted: str) -> str:
    """The binding to use; "" leaves it to us. Raises Refused for one that is not there."""
    if wanted not in ("", DIRECT, PYFUSE3):
        raise Refused(Code.INVALID, f"fuse={wanted} is no binding: fuse={DIRECT} or fuse={PYFUSE3}")
    is_there = find_spec("pyfuse3") is not None
    if wanted == PYFUSE3 and not is_there:
        raise Refused(
            Code.NOT_SUPPORTED, "pyfuse3 is not installed: pip install 'cloudverge[pyfuse3]', or fuse=direct"
        )
    return wanted or (PYFUSE3 if is_there else DIRECT)


def heeds_acls(kind: str, options: MountOptions, checked: bool) -> bool:
    """Whether access control lists are to be heeded: where the kernel checks permissions, or ``-o acl`` asks for it.

    Raises Refused where the binding cannot.
    """
    if options.acl and kind != DIRECT:
        raise Refused(
            Code.NOT_SUPPORTED, "-o acl needs -o fuse=direct: pyfuse3 cannot carry access control lists"
        )
    return kind == DIRECT and (options.acl or checked)


def make_mount(
    kind: str,
    files: FileSystem,
    mountpoint: Path,
    options: set[str],
    patience_s: float = PATIENCE_S,
    *,
    acls: bool = False,
) -> KernelMount:
    """A mount of this kind (see ``choose``), not attached yet.

    A request may take ``patience_s``. With ``acls`` the kernel is to heed access control lists, if it can be told to.
    """
    if kind == DIRECT:
        return DirectMount(files, mountpoint, options, patience_s, acls=acls)
    from cloudverge_mount.pyfusemount import PyfuseMount  # it may not be installed

    return PyfuseMount(files, mountpoint, options, patience_s)
