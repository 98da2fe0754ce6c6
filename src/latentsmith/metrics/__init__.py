"""Measuring is a verb: numbers with intervals and a protocol stamp."""

from latentsmith.metrics.base import Measurement, Stamp

__all__ = ["Measurement", "Stamp"]
