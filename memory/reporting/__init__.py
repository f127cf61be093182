"""The nightly report: plain data in; a self-contained HTML page, a markdown summary and table rows out."""

from __future__ import annotations

from memory.reporting.data import ReportData
from memory.reporting.report import render_report, report_name, write_report
from memory.reporting.summary import markdown_summary, pattern_summary, table_rows

__all__ = [
    "ReportData",
    "markdown_summary",
    "pattern_summary",
    "render_report",
    "report_name",
    "table_rows",
    "write_report",
]
