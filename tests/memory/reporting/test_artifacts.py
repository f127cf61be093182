"""What runs leave in the UI: every text is literal, links lead where they may, tables are what the UI can show."""

from __future__ import annotations

import json
import math

import pytest

from memory.errors import InvalidQueryError
from memory.reporting.artifacts import (
    TABLE_ROWS,
    Link,
    RunSummary,
    Table,
    artifact_key,
    artifact_link,
    escaped,
    summary_markdown,
    table_cells,
    table_title,
)

HOSTILE = (
    "a | b <img src=x onerror=alert(1)> [link](javascript:alert(1)) ![i](http://evil.example/i)\n# h `c` *b* ~~s~~"
)


def test_markup_of_every_kind_becomes_literal_text() -> None:
    text = escaped(HOSTILE)
    assert "<" not in text
    assert "\n" not in text
    assert "://" not in text
    text = text.replace("&#", "&")  # what starts an entity is no heading
    for sign in "|[]`*#!~":
        assert text.count(sign) == text.count(f"\\{sign}")


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("www.evil.example", "www&#46;evil.example"),
        ("mail me@evil.example", "mail me&#64;evil.example"),
        ("- a list", "\\- a list"),
        ("12. a list", "12\\. a list"),
        ("--- a line", "\\--- a line"),
        ("-0.5 and 1.5", "-0.5 and 1.5"),
    ],
)
def test_what_markdown_would_make_of_bare_text_is_kept_from_it(text: str, literal: str) -> None:
    assert escaped(text) == literal


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("MEAN_REVERTING", "MEAN_REVERTING"),
        ("_emphasised_ text", "\\_emphasised\\_ text"),
        ("__strong__", "\\_\\_strong\\_\\_"),
        ("snake_case_ and _x", "snake_case\\_ and \\_x"),
    ],
)
def test_an_underscore_within_a_word_is_literal_as_it_is(text: str, literal: str) -> None:
    assert escaped(text) == literal


def test_a_link_in_a_cell_is_its_text() -> None:
    (row,) = table_cells(Table("t", "T", [{"pattern": artifact_link("p-00ff", "pattern-default-p-00ff")}]))
    assert row == {"pattern": "p-00ff"}


def test_a_long_value_is_cut() -> None:
    assert len(escaped("x" * 10_000)) == 2000


def test_a_summary_has_a_list_under_each_heading_that_has_figures() -> None:
    text = summary_markdown(
        RunSummary(
            title="Recorded",
            read={"experiences": 21600},
            dropped={"refused": 3, "share": 0.25, "dry run": False, "unknown": None},
            notes=["3 records were refused."],
            links=[artifact_link("More", "recording-default")],
        )
    )
    assert text.startswith("# Recorded\n\n3 records were refused.\n")
    assert "**Read**\n\n* experiences: 21,600\n" in text
    assert "* refused: 3\n* share: 0.25\n* dry run: no\n* unknown: –\n" in text
    assert "Learned" not in text
    assert text.endswith("[More](/artifacts/key/recording-default)\n")


def test_a_run_that_found_nothing_to_do_says_so() -> None:
    assert summary_markdown(RunSummary(title="Rebuilt")).endswith("Nothing was to be done.\n")


def test_nothing_in_a_summary_or_table_can_be_markup() -> None:
    summary = RunSummary(title=HOSTILE, read={HOSTILE: HOSTILE}, notes=[HOSTILE], links=[Link(HOSTILE, "/artifacts")])
    table = Table("rows", HOSTILE, [{HOSTILE: HOSTILE, "link": Link(HOSTILE, "https://reports.example/a.html#p")}])
    texts = [summary_markdown(summary), json.dumps(table_cells(table)), table_title(table)]
    for text in texts:
        assert "<img" not in text
        assert "](javascript" not in text.replace("\\\\", "\\").replace("\\](", "")
        assert "](http://" not in text


@pytest.mark.parametrize(
    "target",
    [
        "javascript:alert(1)",
        "https://user:secret@host/x",
        "//evil.example",
        "https://a.example/x)y",
        "http://a b",
        "data:text/html,x",
        "",
    ],
)
def test_a_link_leads_to_a_plain_address_or_a_path_of_the_ui_only(target: str) -> None:
    with pytest.raises(InvalidQueryError) as refused:
        Link("x", target)
    assert "secret" not in str(refused.value)


def test_every_row_of_a_table_has_all_columns_and_only_json() -> None:
    rows = table_cells(Table("t", "T", [{"a": 1, "b": 0.1234567891}, {"c": True, "a": math.nan}]))
    assert rows == [{"a": 1, "b": 0.123457, "c": None}, {"a": None, "b": None, "c": "yes"}]
    json.dumps(rows, allow_nan=False)


def test_a_long_table_says_how_much_it_leaves_out() -> None:
    table = Table("t", "Rows", [{"a": number} for number in range(TABLE_ROWS + 3)])
    assert len(table_cells(table)) == TABLE_ROWS
    assert table_title(table) == f"Rows (the first {TABLE_ROWS}; 3 more)"


def test_keys_are_made_of_what_the_api_takes() -> None:
    assert artifact_key("pattern", "my-memory", "p-00ff") == "pattern-my-memory-p-00ff"
    with pytest.raises(InvalidQueryError, match="'Other'"):
        artifact_key("pattern", "Other")
