"""From what a mount was asked for to who it is in the cluster, and what others are told of it.

A user's credentials are those of his profile; in a cluster of this machine also those in its folder, where an account
is made when there is none. A machine has a token and nobody's credentials.
"""

import dataclasses
import os
import socket
from pathlib import Path

from msgspec.structs import replace

from cloudverge_mount.account.choice import same_form
from cloudverge_mount.account.profiles import Profiles
from cloudverge_mount.authclient import AuthClient, Ticket
from cloudverge_mount.config import MountConfig
from cloudverge_mount.credentials import CredentialFile, Credentials, file_in_cluster_folder
from cloudverge_mount.endpoints import Endpoints, load_cluster, remote
from cloudverge_mount.identity import Identity, MachineIdentity, TicketKeeper
from cloudverge_mount.registry import MountRecord, start_time
from cloudverge_mount.username import user_name


def locate(config: MountConfig, ticket: Ticket | None = None) -> Endpoints:
    """Where the cluster is, as of now. Of one elsewhere auth tells, in a ticket, where the metaserver is."""
    if config.server_url is not None:
        told = config.metaserver or (ticket.metaserver if ticket else "") or None
        there = remote(config.server_url, told, config.ca, config.ca_pem)
        return dataclasses.replace(there, metaserver_url=ticket.metaserver_url) if ticket else there
    assert config.cluster_folder is not None
    return load_cluster(config.cluster_folder)


def make_identity(
    config: MountConfig, cluster: str, auth: AuthClient, profiles: Profiles | None = None
) -> TicketKeeper:
    """Who we are in this cluster: by a machine's token, or by the credentials on disk."""
    if config.machine_token:
        return MachineIdentity(auth, config.machine_token, cluster=cluster)
    user = config.user or user_name()
    return Identity(
        auth,
        _credentials_of(config, cluster, user, profiles or Profiles()),
        cluster=cluster,
        user=user,
        device=socket.gethostname(),
        space=config.space,
        grant=config.grant,
        new=_as_kept(config, cluster, user),
        may_sign_up=config.cluster_folder is not None,
        invitation=_first_invitation(config.cluster_folder),
    )


def _first_invitation(folder: Path | None) -> str:
    """What lets the owner of a cluster's folder in where sign-up is by invitation; good once."""
    try:
        return (folder / "secrets" / "admin-invitation").read_text().strip() if folder else ""
    except OSError:
        return ""


def _credentials_of(config: MountConfig, cluster: str, user: str, profiles: Profiles) -> CredentialFile:
    """A profile if there is one: who signed in has said who he is."""
    if config.cluster_folder is not None:
        profile = profiles.file(cluster, user) if config.user else None
        if profile is not None and profile.path.exists():
            return profile
        return file_in_cluster_folder(config.cluster_folder, cluster, config.user)
    return profiles.file(cluster, user)


def _as_kept(config: MountConfig, cluster: str, user: str) -> Credentials:
    """What a profile shall say of where it is from; credentials in a cluster's folder need not."""
    new = Credentials(cluster, user)
    if config.server_url is None:
        return new
    return replace(
        new, server=same_form(config.server_url), ca=config.ca.read_text() if config.ca else config.ca_pem
    )


def record_of(
    config: MountConfig, user: str, ticket: Ticket, space_name: str, cache: Path, control: Path
) -> MountRecord:
    """How commands find this mount, and whose account they are to use for what lies in it."""
    pid = os.getpid()
    return MountRecord(
        str(config.mountpoint),
        pid,
        start_time(pid),
        space_name,
        str(cache),
        str(control),
        server_url=same_form(config.server_url or ""),
        cluster_folder=str(config.cluster_folder or ""),
        profile_user=config.user,
        user=user,
        space_id=ticket.space,
        grant=ticket.grant or None,
        machine=bool(config.machine_token),
    )
