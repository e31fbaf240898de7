"""Self-contained HTML reports."""

from parhelion.report.document import Report

__all__ = ["Report"]
