"""Settings of cloudverge-auth: flags, or environment variables CLOUDVERGE_AUTH_..."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from cloudverge_protocol.ids import ID_MAX
from cloudverge_wire.arguments import DatabaseSettings, settings_config
from cloudverge_wire.listen import is_loopback

SignUp = Literal["open", "invite", "closed"]


class AuthSettings(DatabaseSettings):
    """What an operator may choose."""

    model_config = settings_config("auth")

    cluster_id: str = Field("", description="32 hex digits for a new database; must match that of an old one")
    sign_up: SignUp | None = Field(
        None,
        description="who may sign up, until an administrator decides (default: open on loopback, else invite)",
    )
    invite_file: Path | None = Field(
        None, description="file (0600) with a secret that any number may use where sign-up is by invitation"
    )
    admin_invite_file: Path | None = Field(
        None, description="file (0600) with a one-time administrator invitation, taken in at start"
    )
    join_token_file: Path | None = Field(
        None, description="file (0600) with the join token, which opens the routes for servers"
    )
    metaserver: str = Field(
        "", max_length=300, description="HOST:PORT of the metaserver's frames, told to clients"
    )
    metaserver_url: str = Field(
        "", max_length=1024, description="URL of the metaserver, told to clients; the base of links"
    )
    ca_key_file: Path | None = Field(
        None, description="private key (PEM, 0600) of the CA of --tls-ca, to enrol storage hosts"
    )
    quota_bytes: int = Field(0, ge=0, le=ID_MAX, description="quota of a new space (0: none)")
    quota_inodes: int = Field(0, ge=0, le=ID_MAX, description="the same in inodes (0: none)")
    user_quota_bytes: int = Field(
        0, ge=0, le=ID_MAX, description="quota of a new user over all his spaces (0: none)"
    )
    user_quota_inodes: int = Field(0, ge=0, le=ID_MAX, description="the same in inodes (0: none)")
    key_days: int = Field(30, ge=0, le=3650, description="age at which signing keys are rotated (0: never)")
    hashing_threads: int = Field(2, ge=1, le=64, description="password hashes at a time, 64 MiB each")

    @property
    def sign_up_policy(self) -> SignUp:
        """Who may sign up."""
        if self.sign_up is not None:
            return self.sign_up
        return "open" if is_loopback(self.host) else "invite"
