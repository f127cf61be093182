"""Writing the report: a stable name, one step, nothing left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from memory.errors import InvalidQueryError
from memory.reporting import ReportData, render_report, report_name, write_report


def test_the_name_follows_from_namespace_and_window(minimal: ReportData) -> None:
    assert report_name(minimal) == "nightly-default-2021-06-21.html"


def test_writing_again_replaces_the_file_and_leaves_nothing_else(minimal: ReportData, tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "deep"
    first = write_report(minimal, folder)
    changed = replace(minimal, facts=replace(minimal.facts, run_id="run-2"))
    second = write_report(changed, folder)
    assert first == second
    assert [path.name for path in folder.iterdir()] == ["nightly-default-2021-06-21.html"]
    assert second.read_text(encoding="utf-8") == render_report(changed)


def test_a_failed_write_keeps_the_old_report(
    minimal: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_report(minimal, tmp_path)
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report(replace(minimal, facts=replace(minimal.facts, run_id="run-2")), tmp_path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("namespace", "../etc"),
        ("namespace", ""),
        ("namespace", "A"),
        ("window_name", "../2021-06-21"),
        ("window_name", "2021-06-21/x"),
        ("window_name", "tonight"),
    ],
)
def test_a_name_that_could_leave_the_folder_is_refused(
    minimal: ReportData, tmp_path: Path, field: str, value: str
) -> None:
    data = replace(minimal, facts=replace(minimal.facts, **{field: value}))
    with pytest.raises(InvalidQueryError) as caught:
        write_report(data, tmp_path / "reports")
    assert caught.value.argument == field
    assert not (tmp_path / "reports").exists()
