"""The published description of a server's HTTP: what every route takes, and every way in which it can be answered.

Routes declare their refusals by ``problems``; ``describe`` makes the description say what the gate and the
translation of errors really do: which token opens a route, and that a request that is malformed gets a 400.
"""

from collections.abc import Collection
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel, Field

_BEARER: Final = "token"
_WORDS: Final = {
    400: "The request is malformed",
    401: "A valid token is required",
    403: "The caller may not do this",
    404: "There is no such thing, or it is not the caller's",
    409: "The state of things is in the way",
    413: "The request's body is too large",
    429: "Too many attempts; Retry-After says when to come back",
    500: "A fault of this server; its log has the details",
    503: "Not to be had just now: try again",
    504: "The request's body did not arrive in time",
    507: "There is no room for more",
}


class Problem(BaseModel):
    """Every error."""

    code: str = Field(description="one of a fixed set of names")
    message: str = Field(description="for people: what happened, to what, what to do")


class Health(BaseModel):
    """It works."""

    status: str = "ok"


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route that may be refused in these ways."""
    return {status: {"model": Problem, "description": _WORDS[status]} for status in statuses}


def text(description: str) -> dict[str, Any]:
    """A response in plain text."""
    return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}


def describe(app: FastAPI, *, public: Collection[str], token: str) -> None:
    """Publish ``app`` as it is behind its gate; ``token`` says which one opens the routes that are not public."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            _describe(schema, frozenset(public), token)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _describe(schema: dict[str, Any], public: frozenset[str], token: str) -> None:
    components = schema.setdefault("components", {})
    components["securitySchemes"] = {_BEARER: {"type": "http", "scheme": "bearer", "description": token}}
    for unused in ("HTTPValidationError", "ValidationError"):
        components.get("schemas", {}).pop(unused, None)
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # answered as 400, see ``httperrors``
            if path not in public:
                operation["security"] = [{_BEARER: []}]
