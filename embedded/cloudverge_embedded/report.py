"""``cluster.json``: what a client needs to find the servers, and what a test needs to find the processes.

After a child was restarted only the pids are written anew: an endpoint that somebody changed, to put a proxy
between, stays changed until the cluster is stopped and started.
"""

import msgspec

from cloudverge_embedded.atomicfile import read_optional, write_json
from cloudverge_embedded.folder import CA_NAME, Folder
from cloudverge_embedded.plan import AUTH, DATABASE, METASERVER, ChildSpec
from cloudverge_embedded.settings import Settings

Report = dict[str, object]
_KEPT = ("auth_url", "metaserver_url", "metaserver_frames", "dsn")


class ServerEntry(msgspec.Struct):
    """One child, as others see it; ``pid`` is None while it is down."""

    name: str
    pid: int | None
    url: str | None
    frames: str | None
    data_dir: str
    log: str


def build_report(
    settings: Settings, dsn: str, specs: list[ChildSpec], pids: dict[str, int | None], supervisor: int | None
) -> Report:
    """The whole object, from the plan. Pure."""
    servers = [
        ServerEntry(spec.name, pids.get(spec.name), spec.url, spec.frames, str(spec.data_dir), str(spec.log))
        for spec in specs
        if spec.name != DATABASE
    ]
    return {
        "cluster": settings.cluster,
        "auth_url": settings.url(AUTH),
        "metaserver_url": settings.url(METASERVER),
        "metaserver_frames": settings.frames(METASERVER),
        "dsn": dsn,
        "ca": CA_NAME if settings.tls else None,
        "replicas": settings.replicas,
        "restart": str(settings.restart),
        "supervisor_pid": supervisor,
        "servers": [msgspec.to_builtins(server) for server in servers],
    }


def keep_endpoints(report: Report, older: Report) -> Report:
    """The new report with the endpoints of the older one. Pure."""
    return report | {key: older[key] for key in _KEPT if key in older}


def load_report(folder: Folder) -> Report | None:
    """The file's content, or None if there is none that can be read."""
    content = read_optional(folder.cluster_file)
    try:
        return msgspec.json.decode(content, type=dict[str, object]) if content else None
    except msgspec.DecodeError:
        return None


def save_report(folder: Folder, report: Report) -> None:
    """Write the file, readable by its owner only: the DSN holds a password."""
    write_json(folder.cluster_file, report)
