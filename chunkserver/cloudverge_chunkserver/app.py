"""The HTTP side: health for anybody, metrics and status for who has the join token.

The gate stands before the application and before any parsing; see ``cloudverge_wire.gate``.
"""

from collections.abc import Callable

from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cloudverge_wire.httperrors import answer_errors

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


def make_app(figures: Figures, status: Callable[[], dict[str, object]]) -> FastAPI:
    """The application, to be put behind the gate."""
    app = FastAPI(title="CloudVerge chunkserver", openapi_url=None, docs_url=None, redoc_url=None)
    answer_errors(app)
    registry = CollectorRegistry()
    registry.register(_Figures(figures))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    @app.get("/v1/status")
    async def show_status() -> dict[str, object]:
        return status()

    return app
