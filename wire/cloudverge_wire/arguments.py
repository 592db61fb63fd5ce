"""Settings every server has, from flags and from the environment (flags win), checked at start.

A server's own settings are a subclass with its ``env_prefix``: the field ``ready_file`` of cloudverge-auth is
the flag ``--ready-file`` and the variable CLOUDVERGE_AUTH_READY_FILE. Secrets are never settings: flags show in
``ps``, so what is named here is the file that holds the secret.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from cloudverge_wire.listen import TlsFiles


def settings_config(name: str) -> SettingsConfigDict:
    """The pydantic configuration of the server ``name`` ("auth": cloudverge-auth, CLOUDVERGE_AUTH_...)."""
    return SettingsConfigDict(
        env_prefix=f"CLOUDVERGE_{name.upper()}_",
        cli_prog_name=f"cloudverge-{name}",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        frozen=True,
    )


class ServerSettings(BaseSettings):
    """Where to listen and how to say that it is ready."""

    host: str = Field("127.0.0.1", description="address of the HTTP listener")
    port: int = Field(0, ge=0, le=65535, description="port of the HTTP listener (0: any free one)")
    ready_file: Path | None = Field(None, description="written when ready: JSON with http, frames and pid")
    insecure: bool = Field(False, description="allow plain text on an address other than loopback")
    tls_ca: Path | None = Field(None, description="the cluster CA's certificate (PEM)")
    tls_certificate: Path | None = Field(None, description="this server's certificate (PEM)")
    tls_key: Path | None = Field(None, description="this server's private key (PEM)")

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        """Half of TLS would be plain text where somebody meant not to have it."""
        if (self.tls_certificate or self.tls_key) and self.tls is None:
            raise ValueError("--tls-ca, --tls-certificate and --tls-key belong together: one is missing")
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """The TLS files, if all three were given. The CA alone is for a server that only calls over TLS."""
        if self.tls_ca and self.tls_certificate and self.tls_key:
            return TlsFiles(self.tls_ca, self.tls_certificate, self.tls_key)
        return None


class DatabaseSettings(ServerSettings):
    """As above, for servers on PostgreSQL."""

    dsn_file: Path = Field(
        default_factory=lambda: Path(os.environ.get("CLOUDVERGE_DSN_FILE", "")),
        description="file (0600) that holds the DSN; also CLOUDVERGE_DSN_FILE",
    )


Settings = TypeVar("Settings", bound=BaseSettings)


def parse(kind: type[Settings], argv: Sequence[str] | None = None) -> Settings:
    """The settings from ``argv`` (default: the process's) and environment; prints what is wrong and exits with 2."""
    try:
        return kind(_cli_parse_args=list(sys.argv[1:] if argv is None else argv))
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False):
            where = ".".join(map(str, fault["loc"]))
            print(f"{where}: {fault['msg']}" if where else fault["msg"], file=sys.stderr)
    except SettingsError as error:
        print(error, file=sys.stderr)
    raise SystemExit(2)
