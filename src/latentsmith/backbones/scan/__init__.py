"""Linear recurrences over a sequence, S6 (Mamba-1) and SSD (Mamba-2), on several backends."""

from latentsmith.backbones.scan.api import selective_scan, ssd_scan
from latentsmith.backbones.scan.base import (
    SCAN_BACKENDS,
    Availability,
    Rule,
    ScanBackend,
    ScanOutput,
    available,
)

__all__ = [
    "SCAN_BACKENDS",
    "Availability",
    "Rule",
    "ScanBackend",
    "ScanOutput",
    "available",
    "selective_scan",
    "ssd_scan",
]
