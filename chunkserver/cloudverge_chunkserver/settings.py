"""Settings of a chunkserver: flags, or the environment (CLOUDVERGE_CHUNKSERVER_DATA_DIR and so on)."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Stores chunks of a CloudVerge cluster on this machine's disk."""

    model_config = SettingsConfigDict(
        env_prefix="CLOUDVERGE_CHUNKSERVER_",
        cli_prog_name="cloudverge-chunkserver",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        extra="ignore",
    )

    data_dir: Path = Field(description="folder for chunks and for this server's identity")
    metaserver_url: str = Field(description="where to register, e.g. http://127.0.0.1:7420")
    join_token_file: Path = Field(description="file with the cluster's join token")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(0, ge=0, le=65535, description="HTTP port; 0: any")
    frame_port: int = Field(0, ge=0, le=65535, description="frame port; 0: any")
    advertise_host: str = Field("", description="address others reach this server by, if not --host")
    ready_file: Path | None = Field(None, description="written when the server is ready, as JSON")
    capacity_bytes: int = Field(0, ge=0, description="store at most this much; 0: the whole disk")
    reserve_bytes: int = Field(-1, ge=-1, description="room kept for cleaning; -1: 128 MiB or an eighth")
    rack: str = Field("", description="name of the rack, for placement")
    scrub_bytes_per_s: int = Field(8 * 1024 * 1024, ge=0, description="rate of background checks; 0: none")
    tls_ca: Path | None = Field(None, description="the cluster CA's certificate")
    tls_certificate: Path | None = Field(None, description="this server's certificate")
    tls_key: Path | None = Field(None, description="this server's private key")
    insecure: bool = Field(False, description="listen without TLS on an address that is not loopback")
