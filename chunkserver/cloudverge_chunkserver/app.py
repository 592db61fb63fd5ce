"""The HTTP side: health and its own description for anybody, metrics and status for who has the join token.

The gate stands before the application and before any parsing; see ``cloudverge_wire.gate``.
"""

from collections.abc import Callable
from typing import Final

from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel, ConfigDict

from cloudverge_wire.httperrors import answer_errors
from cloudverge_wire.openapi import Health, describe, problems, text

PUBLIC: Final = ("/healthz", "/docs", "/openapi.json")
_REFUSALS: Final = problems(401, 500)

Figures = Callable[[], dict[str, float]]


class _Figures(Collector):
    """Reads the server's own counters when asked; names ending in ``_total`` are counters."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> list[Metric]:
        families: list[Metric] = []
        for name, value in self._figures().items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(f"cloudverge_chunkserver_{name}", name.replace("_", " "))
            family.add_metric([], value)
            families.append(family)
        return families


class Status(BaseModel):
    """This server, its figures beside what is named here."""

    model_config = ConfigDict(extra="allow")

    server: int
    cluster: str
    registered: bool
    damaged: list[int]


def make_app(figures: Figures, status: Callable[[], dict[str, object]]) -> FastAPI:
    """The application, to be put behind the gate."""
    app = FastAPI(title="CloudVerge chunkserver", redoc_url=None, swagger_ui_oauth2_redirect_url=None)
    answer_errors(app)
    registry = CollectorRegistry()
    registry.register(_Figures(figures))

    @app.get("/healthz", responses=problems(500))
    async def healthz() -> Health:
        return Health()

    @app.get(
        "/metrics", response_class=Response, responses=_REFUSALS | {200: text("Prometheus' text format")}
    )
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    @app.get("/v1/status", response_model=Status, responses=_REFUSALS)
    async def show_status() -> dict[str, object]:
        return status()

    describe(app, public=PUBLIC, token="the join token of the cluster")  # noqa: S106
    return app
