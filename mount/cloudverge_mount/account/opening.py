"""From what was said to a signed-in client: ``opened(wish)`` chooses the account and connects to its servers."""

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from cloudverge_mount.account.choice import Choice, Wish, choose
from cloudverge_mount.account.people import People
from cloudverge_mount.account.profiles import Profiles
from cloudverge_mount.account.signin import SignIn
from cloudverge_mount.authclient import AuthClient
from cloudverge_mount.credentials import CredentialFile, Credentials, file_in_cluster_folder
from cloudverge_mount.endpoints import (
    DATA_DIR_VARIABLE,
    Endpoints,
    default_cluster_folder,
    load_cluster,
    remote,
)
from cloudverge_mount.username import user_name
from cloudverge_protocol.errors import Code, Denied, ProtocolFault, Refused, Unavailable

T = TypeVar("T")


def chosen(wish: Wish, profiles: Profiles) -> Choice:
    """The account that is meant, as things stand on this machine."""
    current = None if os.environ.get(DATA_DIR_VARIABLE) else profiles.current()
    return choose(wish, profiles.all(), current, default_cluster_folder())


def endpoints_of(choice: Choice) -> Endpoints:
    """Where its servers are. Raises Denied if nobody is signed in there, Refused if there is no cluster."""
    profile = choice.profile
    if choice.folder is not None:
        try:
            return load_cluster(choice.folder)
        except Unavailable as error:
            message = f"{error.message}: cv up starts one, cv login signs in elsewhere"
            raise Refused(Code.NOT_FOUND, message) from None
    if profile is None:
        who = choice.user or "nobody"
        not_in = "is not signed in" if choice.user else "is signed in"
        raise Denied(
            Code.UNAUTHORIZED, f"{who} {not_in} at {choice.server}: cv login --server {choice.server}"
        )
    return remote(choice.server, None, None, profile.ca)


def file_of(choice: Choice, cluster: str, profiles: Profiles) -> CredentialFile:
    """Where its credentials lie: a profile, or the folder of the cluster of this machine."""
    if choice.profile is not None:
        return profiles.file(choice.profile.cluster, choice.profile.user)
    assert choice.folder is not None
    return file_in_cluster_folder(choice.folder, cluster, choice.user)


@asynccontextmanager
async def opened(wish: Wish, profiles: Profiles | None = None) -> AsyncIterator[People]:
    """The signed-in client. Nothing is asked yet, but which cluster it is where nothing proves that."""
    store = profiles or Profiles()
    choice = chosen(wish, store)
    endpoints = endpoints_of(choice)
    async with AuthClient(endpoints.auth_url, endpoints.tls()) as auth:
        cluster = choice.profile.cluster if choice.profile else endpoints.cluster
        await _check_cluster(auth, cluster, endpoints)
        file = file_of(choice, cluster, store)
        user = choice.user or _kept_name(file) or user_name()
        new = choice.profile or Credentials(cluster, user)
        # a name that was typed is not made an account by mistake: cv signup does that
        own = choice.profile is None and not choice.user
        sign_in = SignIn(auth, file, new, device=socket.gethostname(), may_sign_up=own)
        async with People(auth, sign_in, endpoints) as people:
            yield people


async def _check_cluster(auth: AuthClient, cluster: str, endpoints: Endpoints) -> None:
    """A refresh token goes to its own cluster only; where there is no TLS, ask first whose server it is."""
    if endpoints.auth_url.startswith("https:"):
        return
    found = (await auth.keys()).cluster
    if found != cluster:
        raise ProtocolFault(Code.WRONG_CLUSTER, f"{endpoints.auth_url} now belongs to cluster {found}")


def _kept_name(file: CredentialFile) -> str:
    kept = file.load()
    return kept.user if kept else ""


def run(wish: Wish, action: Callable[[People], Awaitable[T]]) -> T:
    """Do something as the account that is meant."""

    async def do() -> T:
        async with opened(wish) as people:
            return await action(people)

    return trio.run(do)
