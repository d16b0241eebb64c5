"""What a server did, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgetalker.engines.errors import MissingPackageError
from edgetalker.serve.batch import Batch

__all__ = ["Metrics"]

BUCKETS = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)


class Metrics:
    """Counts that the batch keeps, read when they are asked for; latency by protocol; refused clients and messages."""

    def __init__(self, batch: Batch) -> None:
        """Raises MissingPackageError without prometheus-client."""
        try:
            from prometheus_client import CollectorRegistry, Counter, Histogram
        except ImportError:
            raise MissingPackageError("prometheus-client", "serving", extra="serve") from None
        self._batch, self._registry = batch, CollectorRegistry()
        self.latency: Any = Histogram(
            "edgetalker_latency_seconds",
            "from a packet (or the frame's slot, where it came later) to its motion handed to the socket",
            ["protocol"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        for protocol in ("websocket", "grpc"):
            self.latency.labels(protocol)
        self.refused: Any = Counter(
            "edgetalker_refused", "clients and messages that were refused", ["reason"], registry=self._registry
        )
        self._registry.register(self)

    def collect(self) -> Iterable[Any]:
        """Yield the batch's figures, as prometheus-client asks for them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        batch, figures = self._batch, self._batch.figures
        frames = CounterMetricFamily("edgetalker_frames", "frames that were due, by outcome", labels=["outcome"])
        for outcome, count in sorted(figures.outcomes.items()):
            frames.add_metric([outcome.value], count)
        made = CounterMetricFamily("edgetalker_made", "frames made, by schedule", labels=["schedule"])
        for schedule, count in sorted(figures.schedules.items()):
            made.add_metric([schedule], count)
        launches = CounterMetricFamily("edgetalker_launches", "launches, by width", labels=["width"])
        for width, count in sorted(figures.launches.items()):
            launches.add_metric([str(width)], count)
        yield from (frames, made, launches)
        yield CounterMetricFamily("edgetalker_talkers_joined", "talkers that came", value=figures.joined)
        yield CounterMetricFamily("edgetalker_resets", "times a talker began anew", value=batch.resets)
        yield GaugeMetricFamily("edgetalker_talkers", "talkers now", value=len(batch.talking))
        yield GaugeMetricFamily("edgetalker_talkers_most", "room for talkers", value=batch.options.talkers)
        yield GaugeMetricFamily("edgetalker_waiting_seconds", "sound that waits", value=batch.waiting)

    def text(self) -> tuple[bytes, str]:
        """Return the exposition and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST
