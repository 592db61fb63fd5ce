"""The fields that bodies are made of: bounded, without control characters, since others will read them."""

from typing import Annotated

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from cloudverge_protocol.ids import ID_MAX

LAST_SECOND = 253_402_300_799  # of the year 9999
NAME_PATTERN = r"^[a-z0-9._-]{1,64}$"


def _not_dots(name: str) -> str:
    if name in (".", ".."):
        raise ValueError("must be more than dots")
    return name


UserName = Annotated[str, Field(pattern=NAME_PATTERN), AfterValidator(_not_dots)]
SpaceName = Annotated[
    str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f/]+$", min_length=1, max_length=64), AfterValidator(_not_dots)
]
Password = Annotated[SecretStr, Field(min_length=8, max_length=1024)]
HostName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", max_length=255)]
Label = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", max_length=64)]
SomeLabel = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]+$", min_length=1, max_length=64)]
FilePath = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", max_length=4096)]
Secret = Annotated[SecretStr, Field(max_length=1024)]
Id = Annotated[int, Field(ge=1, le=ID_MAX)]
Quota = Annotated[int, Field(ge=0, le=ID_MAX)]
Until = Annotated[int, Field(ge=0, le=LAST_SECOND, description="Unix seconds; 0: no end")]

PathId = Annotated[int, Path(ge=1, le=ID_MAX)]
PathUser = Annotated[str, Path(pattern=NAME_PATTERN), AfterValidator(_not_dots)]
Before = Annotated[
    int, Query(ge=0, le=ID_MAX, description="only entries with lower numbers; 0: from the newest")
]
Limit = Annotated[int, Query(ge=1, le=1000)]


class Body(BaseModel):
    """Base of what is taken: unknown fields are refused, so a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid")


class Fine(BaseModel):
    """Done."""

    status: str = "ok"
