"""What shall run, as values: one ``ChildSpec`` for each child. Pure; nothing is started or looked at here.

Order: PostgreSQL, its roles and schemas, auth, the metaserver, the chunkservers. A child waits for those it
``needs``; they are named, so that one killed server does not hold up those that can do without it.
"""

import signal
from dataclasses import dataclass, field
from pathlib import Path

from cloudverge_embedded.accounts import Account
from cloudverge_embedded.folder import Folder
from cloudverge_embedded.settings import Settings, chunkserver_names

POSTGRES = "postgres"
DATABASE = "database"
AUTH = "auth"
METASERVER = "metaserver-1"

PASSED_FOLDER = "{folder}"  # in argv: the shared folder, as the child sees its descriptor

START_LIMIT_S = 30.0
POSTGRES_START_LIMIT_S = 120.0  # it may have a long log to recover from


@dataclass(frozen=True, slots=True)
class ReadyFile:
    """Ready when this JSON file appears with the child's own pid."""

    path: Path


@dataclass(frozen=True, slots=True)
class PostmasterFile:
    """Ready when this ``postmaster.pid`` carries the child's pid and the word ready."""

    path: Path


@dataclass(frozen=True, slots=True)
class Finished:
    """A task, not a server: ready once it has ended with exit code 0, and never restarted."""


Readiness = ReadyFile | PostmasterFile | Finished


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """Everything needed to start one child, to know it ready, and to stop it."""

    name: str
    argv: tuple[str, ...]
    ready: Readiness
    log: Path
    data_dir: Path
    needs: tuple[str, ...] = ()
    url: str | None = None
    frames: str | None = None
    account: Account | None = None
    working_folder: Path = Path("/")
    environment: dict[str, str] = field(default_factory=dict)
    shared_folder: Path | None = None  # opened for a child that could not walk to it
    stop_signal: signal.Signals = signal.SIGTERM
    start_limit_s: float = START_LIMIT_S


def server_plan(folder: Folder, settings: Settings, python: str) -> list[ChildSpec]:
    """Database set-up, auth, metaserver and chunkservers of one cluster; PostgreSQL is not among them."""
    needs = () if settings.external_database else (POSTGRES,)
    database = ChildSpec(
        DATABASE,
        (python, "-P", "-m", "cloudverge_embedded.database", str(folder.root)),
        Finished(),
        folder.log_file(DATABASE),
        folder.root,
        needs,
    )
    servers = [_auth(folder, settings, python), _metaserver(folder, settings, python)]
    return [
        database,
        *servers,
        *(_chunkserver(folder, settings, python, n) for n in chunkserver_names(settings)),
    ]


def _auth(folder: Folder, settings: Settings, python: str) -> ChildSpec:
    options = (
        "--dsn-file", str(folder.dsn_file("auth")),
        "--cluster-id", settings.cluster,
        "--join-token-file", str(folder.join_token),
        "--admin-invite-file", str(folder.admin_invitation),
        "--metaserver", settings.frames(METASERVER) or "",
        "--metaserver-url", settings.url(METASERVER),
        *(("--ca-key-file", str(folder.ca_key)) if settings.tls else ()),
    )  # fmt: skip
    return _server(folder, settings, AUTH, (python, "-P", "-m", "cloudverge_auth", *options), (DATABASE,))


def _metaserver(folder: Folder, settings: Settings, python: str) -> ChildSpec:
    options = (
        "--dsn-file", str(folder.dsn_file("meta")),
        "--auth-url", settings.url(AUTH),
        "--join-token-file", str(folder.join_token),
        "--replicas", str(settings.replicas),
    )  # fmt: skip
    return _server(
        folder, settings, METASERVER, (python, "-P", "-m", "cloudverge_metaserver", *options), (AUTH,)
    )


def _chunkserver(folder: Folder, settings: Settings, python: str, name: str) -> ChildSpec:
    options = (
        "--data-dir", str(folder.home_of(name)),
        "--metaserver-url", settings.url(METASERVER),
        "--join-token-file", str(folder.join_token),
    )  # fmt: skip
    return _server(
        folder, settings, name, (python, "-P", "-m", "cloudverge_chunkserver", *options), (METASERVER,)
    )


def _server(
    folder: Folder, settings: Settings, name: str, argv: tuple[str, ...], needs: tuple[str, ...]
) -> ChildSpec:
    """What our own three servers have in common: addresses, a certificate, a ready file, a home."""
    port, frame_port = settings.ports[name], settings.ports.get(f"{name}.frames")
    listen = ("--host", settings.host, "--port", str(port), "--ready-file", str(folder.ready_file(name)))
    frames = ("--frame-port", str(frame_port)) if frame_port else ()
    tls = _tls_flags(folder, name) if settings.tls else ()
    return ChildSpec(
        name,
        (*argv, *listen, *frames, *tls),
        ReadyFile(folder.ready_file(name)),
        folder.log_file(name),
        folder.home_of(name),
        needs,
        url=settings.url(name),
        frames=settings.frames(name),
        working_folder=folder.home_of(name),
    )


def _tls_flags(folder: Folder, name: str) -> tuple[str, ...]:
    return (
        "--tls-ca", str(folder.ca_certificate),
        "--tls-certificate", str(folder.certificate(name)),
        "--tls-key", str(folder.certificate_key(name)),
    )  # fmt: skip
