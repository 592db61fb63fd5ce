"""Which binding serves a mount: pyfuse3, or our own, which needs no libfuse and no compiler (``-o fuse=``)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from cloudverge_mount.directmount import DirectMount
from cloudverge_mount.filesystem import FileSystem
from cloudverge_mount.kernelmount import PATIENCE_S, KernelMount
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


def make_mount(
    kind: str, files: FileSystem, mountpoint: Path, options: set[str], patience_s: float = PATIENCE_S
) -> KernelMount:
    """A mount of this kind (see ``choose``), not attached yet; a request may take ``patience_s``."""
    if kind == DIRECT:
        return DirectMount(files, mountpoint, options, patience_s)
    from cloudverge_mount.pyfusemount import PyfuseMount  # it may not be installed

    return PyfuseMount(files, mountpoint, options, patience_s)
