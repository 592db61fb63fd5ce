"""Auth's HTTP routes, one module per subject: each translates a body to a call and a result to a body, nothing else.

Who may call is decided before any of this runs (``app``): ``PUBLIC`` names the routes open to strangers,
``is_for_servers`` those that take the join token, ``ADMIN`` is the path below which are those of administrators.
"""

import re
from typing import Final

PUBLIC: Final = (
    "/healthz",
    "/v1/keys",
    "/v1/ca",
    "/v1/signup",
    "/v1/login",
    "/v1/refresh",
    "/v1/machine",
    "/v1/enrol",
    "/docs",
    "/openapi.json",
)
ADMIN: Final = "/v1/admin/"
_FOR_SERVERS: Final = re.compile(r"/v1/(revocations|links/open|nodes|spaces/[^/]+/purged)", re.DOTALL)


def is_for_servers(path: str) -> bool:
    """Whether the route at this path takes the join token, and nothing else."""
    return _FOR_SERVERS.fullmatch(path) is not None
