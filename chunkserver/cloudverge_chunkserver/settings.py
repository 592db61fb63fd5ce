"""Settings of a chunkserver: flags, or the environment (CLOUDVERGE_CHUNKSERVER_DATA_DIR and so on)."""

from pathlib import Path

from pydantic import Field

from cloudverge_wire.arguments import ServerSettings, settings_config


class Settings(ServerSettings):
    """Stores chunks of a CloudVerge cluster on this machine's disk."""

    model_config = settings_config("chunkserver")

    data_dir: Path = Field(description="folder for chunks and for this server's identity")
    metaserver_url: str = Field(description="where to register, e.g. http://127.0.0.1:7420")
    join_token_file: Path = Field(description="file (0600) with the cluster's join token")
    frame_port: int = Field(0, ge=0, le=65535, description="port of the frame listener (0: any free one)")
    advertise_host: str = Field("", description="address by which others reach this server, if not --host")
    capacity_bytes: int = Field(0, ge=0, description="store at most this much (0: the whole disk)")
    reserve_bytes: int = Field(
        -1, ge=-1, description="room kept for cleaning (-1: 128 MiB, or an eighth of a small disk)"
    )
    rack: str = Field("", description="name of the rack, for placement")
    scrub_bytes_per_s: int = Field(8 * 1024 * 1024, ge=0, description="rate of background checks (0: none)")
