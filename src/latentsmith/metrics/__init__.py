"""Measuring is a verb: numbers with intervals and a protocol stamp."""

from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.metrics.registry import METRICS, metric

__all__ = ["METRICS", "Measurement", "Stamp", "metric"]
