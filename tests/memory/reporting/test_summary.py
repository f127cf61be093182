"""Artifacts of the run: markdown and table."""

from __future__ import annotations

import json
from dataclasses import replace

from memory.reporting import ReportData, markdown_summary, table_rows
from memory.reporting.ranking import strongest
from memory.reporting.summary import TABLE_PATTERNS, escaped

HOSTILE = "a | b <script>x</script> [link](http://evil.example)\n# title `code` *bold* ![i](y)"


def test_markup_in_names_is_literal_text() -> None:
    text = escaped(HOSTILE)
    assert "<" not in text
    assert "\n" not in text
    assert "://" not in text
    text = text.replace("&#", "&")  # what starts an entity is no heading
    for sign in "|[]`*#":
        assert text.count(sign) == text.count(f"\\{sign}")


def test_summary_holds_the_night_its_figures_and_the_strongest_patterns(full: ReportData) -> None:
    text = markdown_summary(full)
    assert text.startswith("# What the memory learned on 21 June 2021\n")
    assert "the null would have confirmed" in text
    assert "## Strongest patterns" in text
    assert "Steps: record 7.8 s" in text


def test_summary_of_a_bare_run_is_short_and_plain(minimal: ReportData) -> None:
    text = markdown_summary(minimal)
    assert "Nothing was recorded for this window." in text
    assert "Strongest patterns" not in text


def test_table_cells_cannot_break_the_table(full: ReportData) -> None:
    patterns = tuple(replace(pattern, description=HOSTILE) for pattern in full.patterns)
    lines = markdown_summary(replace(full, patterns=patterns)).splitlines()
    header = next(index for index, line in enumerate(lines) if line.startswith("| | pattern"))
    for line in lines[header + 2 : header + 10]:
        assert line.replace("\\|", "").count("|") == lines[header].count("|")


def test_rows_are_json_and_in_the_order_of_the_ranking(full: ReportData) -> None:
    rows = table_rows(full)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    ranked = strongest(full.patterns, full.reference_horizon_minutes)[:TABLE_PATTERNS]
    assert [row["pattern"] for row in rows] == [pattern.pattern_id for pattern in ranked]
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))


def test_no_patterns_give_no_rows(minimal: ReportData) -> None:
    assert table_rows(minimal) == []
