"""A night's report data, and the page that shows it."""

from __future__ import annotations

import pytest

from memory.reporting import render_report
from memory.reporting.data import ReportData
from tests.memory.reporting.drawn_report import Factory, make_data, make_minimal


@pytest.fixture(scope="session")
def report_data() -> Factory:
    """Factory of a full night's data."""
    return make_data


@pytest.fixture(scope="session")
def full() -> ReportData:
    """One full night of five."""
    return make_data()


@pytest.fixture(scope="session")
def full_page(full: ReportData) -> str:
    """The report of the full night."""
    return render_report(full)


@pytest.fixture
def minimal() -> ReportData:
    """A run that left nothing but its facts."""
    return make_minimal()
