"""What one mount was asked for, complete and checked, as it is handed to the process that serves it."""

from dataclasses import dataclass, field
from pathlib import Path

from cloudverge_mount.options import MountOptions


@dataclass(frozen=True)
class MountConfig:
    """One mount. Either ``cluster_folder`` (embedded) or ``server_url`` is given."""

    mountpoint: Path
    cluster_folder: Path | None
    server_url: str | None = None
    metaserver: str | None = None
    ca: Path | None = None
    ca_pem: str = field(default="", repr=False)  # pinned in the profile
    user: str = ""
    space: str = ""
    grant: int | None = None
    machine_token: str = field(
        default="", repr=False
    )  # of --token-file; empty: a user's credentials are on disk
    cache_folder: Path | None = None
    options: MountOptions = field(default_factory=MountOptions)
    foreground: bool = False
    uid: int = 0  # whom all files show as, without preserve_owner
    gid: int = 0
