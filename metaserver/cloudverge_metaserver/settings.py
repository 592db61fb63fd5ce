"""What an operator can set; see ``cloudverge_wire.arguments`` for how."""

from pathlib import Path

from pydantic import Field

from cloudverge_wire.arguments import DatabaseSettings, settings_config


class MetaSettings(DatabaseSettings):
    """Flags of cloudverge-metaserver, or CLOUDVERGE_METASERVER_... in the environment."""

    model_config = settings_config("metaserver")

    frame_port: int = Field(0, ge=0, le=65535, description="port of the frame listener (0: any free one)")
    auth_url: str = Field(description="base URL of auth, whose published keys are trusted")
    join_token_file: Path = Field(description="file (0600) with the secret by which chunkservers join")
    cluster_id: str = Field("", description="32 hex digits; the database must belong to this cluster")
    replicas: int = Field(2, ge=1, le=8, description="copies of each chunk of new spaces")
    lease_s: float = Field(10.0, gt=0.5, le=3600, description="life of a lease that is not renewed")
    delete_grace_s: float = Field(30.0, ge=0, description="for how long a chunk without live bytes is kept")
    settle_s: float = Field(15.0, ge=0, description="how long a replica left out by a seal is waited for")
    lost_after_s: float = Field(
        300.0, gt=0, description="silence after which a server's replicas are made anew"
    )
    audit_days: float = Field(0.0, ge=0, description="for how long the log of changes is kept (0: for ever)")
