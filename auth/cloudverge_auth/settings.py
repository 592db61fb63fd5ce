"""Settings of cloudverge-auth: flags, or environment variables CLOUDVERGE_AUTH_..."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from cloudverge_wire.arguments import DatabaseSettings, settings_config
from cloudverge_wire.listen import is_loopback

SignUp = Literal["open", "invite", "closed"]


class AuthSettings(DatabaseSettings):
    """What an operator may choose."""

    model_config = settings_config("auth")

    cluster_id: str = Field("", description="32 hex digits for a new database; must match that of an old one")
    sign_up: SignUp | None = Field(
        None, description="who may sign up (default: open on loopback, else closed)"
    )
    invite_file: Path | None = Field(
        None, description="file (0600) with the secret that --sign-up invite asks for"
    )
    quota_bytes: int = Field(0, ge=0, description="quota of a new user's first space (0: none)")
    quota_inodes: int = Field(0, ge=0, description="the same in inodes (0: none)")
    hashing_threads: int = Field(2, ge=1, le=64, description="password hashes at a time, 64 MiB each")

    @property
    def sign_up_policy(self) -> SignUp:
        """Who may sign up."""
        if self.sign_up is not None:
            return self.sign_up
        return "open" if is_loopback(self.host) else "closed"
