"""The nightly report: plain data in; a self-contained HTML page, a markdown summary and table rows out.

What is named here is imported when it is asked for: whoever only wants words or artifacts loads no library of charts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
_MODULES = {
    "ReportData": "data",
    **dict.fromkeys(("render_report", "report_name", "write_report"), "report"),
    **dict.fromkeys(("markdown_summary", "pattern_summary", "table_rows"), "summary"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
