"""The page of metrics, in Prometheus' text format: what collectors read off at this moment, and the process itself."""

import platform
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from meshd import __version__

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Labels = Iterable[tuple[tuple[str, ...], float]]
"""The values of a family's labels, in their order, with what is so for them."""


class Page:
    """The page of one process. Its registry is its own: it has what was given to it, whatever else is imported."""

    def __init__(self, collector: Collector) -> None:
        self._registry = CollectorRegistry()
        for each in (collector, ProcessCollector(registry=None)):
            self._registry.register(each)

    def render(self) -> bytes:
        return generate_latest(self._registry)


def build_info(name: str, **labels: str) -> Metric:
    """Always 1: which version this is, and what `labels` say beside it."""
    labels = {"version": __version__, "python": platform.python_version(), **labels}
    family = GaugeMetricFamily(name, "Which version this is.", labels=list(labels))
    family.add_metric(list(labels.values()), 1.0)
    return family


def gauge(name: str, about: str, value: float) -> Iterator[Metric]:
    """One number."""
    yield GaugeMetricFamily(name, about, value=value)


def gauges(name: str, about: str, labels: tuple[str, ...], values: Labels) -> Iterator[Metric]:
    """A number for each of some things; nothing at all where there are none."""
    family = GaugeMetricFamily(name, about, labels=labels)
    for held, value in values:
        family.add_metric(held, value)
    if family.samples:
        yield family


def counter(name: str, about: str, value: float) -> Iterator[Metric]:
    """One number that only grows; `name` ends in _total."""
    yield CounterMetricFamily(name, about, value=value)


def counters(name: str, about: str, labels: tuple[str, ...], values: Labels) -> Iterator[Metric]:
    """`gauges`, of what only grows."""
    family = CounterMetricFamily(name, about, labels=labels)
    for held, value in values:
        family.add_metric(held, value)
    if family.samples:
        yield family
