"""Commands that keep and move: what they refuse before anything is started, and how they show what they found."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import rich.console

from deployments.keeping import show_janitor, size_text
from deployments.moving import show_export
from deployments.upgrading import is_left, show_upgrade


def shown(show: Callable[[Mapping[str, Any], rich.console.Console], None], result: Mapping[str, Any]) -> str:
    out = io.StringIO()
    show(result, rich.console.Console(file=out, width=200))
    return out.getvalue()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "--out", "{tmp}/out"), "nothing says whose experiences are meant"),
        (("export", "--agent", "a b", "--out", "{tmp}/out"), "agent_id"),
        (("export", "--agent", "a", "--from", "soon", "--out", "{tmp}/out"), "'soon' is not a time"),
        (("export", "--agent", "a", "--from", "2021-06-18", "--to", "2021-06-17", "--out", "{tmp}/out"), "Swap them"),
        (("export", "--agent", "a", "--out", "{tmp}"), "exists already and is not empty"),
        (("export", "--agent", "a", "--as-of", "then", "--out", "{tmp}/out"), "'then' is not a time"),
        (("import", "{tmp}"), "holds no manifest.json"),
        (("import", "{tmp}/nowhere"), "holds no manifest.json"),
        (("import", "{tmp}/nowhere", "--as-agent", "a b"), "as_agent"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_started(
    typed: Any, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "kept").write_text("mine")
    done = typed(*(word.format(tmp=tmp_path) for word in words), COINSWARM_HOME=str(tmp_path / "home"))
    assert done.code in (1, 2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("word", "manifest", "message"),
    [
        ("restore", {"format": "coinswarm-experiences", "version": 2}, "is no snapshot but an export"),
        ("import", {"format": 1, "seal": "", "cut_ms": 7}, "is no export but a snapshot"),
    ],
)
def test_an_export_and_a_snapshot_name_the_command_of_the_other(
    typed: Any, tmp_path: Path, word: str, manifest: Mapping[str, Any], message: str
) -> None:
    folder = tmp_path / "kept here"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    done = typed(word, str(folder), COINSWARM_HOME=str(tmp_path / "home"))
    other = {"restore": "import", "import": "restore"}[word]
    assert (done.code, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr
    assert f"coinswarm {other} '{folder}'" in done.stderr
    assert not (tmp_path / "home").exists()


def test_a_day_that_ends_a_span_is_part_of_it(typed: Any, tmp_path: Path) -> None:
    words = ("export", "--agent", "a", "--from", "2021-06-18", "--out", str(tmp_path))
    (tmp_path / "kept").write_text("mine")
    for last, message in (("2021-06-18", "not empty"), ("2021-06-18T00:00", "Swap them")):
        assert message in typed(*words, "--to", last, COINSWARM_HOME=str(tmp_path / "home")).stderr


def test_looking_at_a_home_that_is_not_there_creates_none(typed: Any, tmp_path: Path) -> None:
    done = typed("upgrade", "--check", "--json", COINSWARM_HOME=str(tmp_path / "home"))
    found = {finding["part"]: finding["found"] for finding in json.loads(done.stdout)["findings"]}
    assert (found["home"], found["prefect database"]) == ("none yet", "none yet")
    assert "ledger" not in found
    assert list(tmp_path.iterdir()) == []


def test_what_expired_is_told_with_its_size_and_rule() -> None:
    row = {"what": "logs", "number": 1234, "bytes": 5_600_000, "rule": "put aside long ago", "dropped": 1200}
    text = shown(show_janitor, {"dry_run": True, "expired": [row]})
    assert all(part in text for part in ("logs", "1,234", "5.6 MB", "put aside long ago", "janitor --apply"))
    assert "1,200" in shown(show_janitor, {"dry_run": False, "expired": [row]})
    assert shown(show_janitor, {"dry_run": True, "expired": []}) == "Nothing has expired.\n"
    assert [size_text(size) for size in (None, 0, 999, 1000, 2e15)] == ["", "0 B", "999 B", "1 kB", "2e+03 TB"]


def test_what_is_to_be_upgraded_is_told_with_what_comes_first() -> None:
    finding = {"part": "ledger", "found": "0002", "wanted": "0003", "state": "pending", "todo": "migrations"}
    result = {"status": "pending", "findings": [finding], "back_up_first": ["ledger"], "done": []}
    text = shown(show_upgrade, result)
    assert "ledger: migrations." in text
    assert "Back up first: ledger (`coinswarm backup`)" in text
    assert is_left(result, check=True)
    assert is_left(result, check=False)
    by_hand = {**result, "status": "by hand", "back_up_first": []}
    assert is_left(by_hand, check=True)
    assert not is_left(by_hand, check=False)
    assert "Everything is as this version wants it." in shown(show_upgrade, {**by_hand, "status": "current"})


def test_what_an_export_lacks_is_told_with_how_to_get_it() -> None:
    counts = {"experiences": 7, "archived": 1234, "decisions": 0, "files": 3, "bytes": 9, "path": "/out"}
    text = shown(show_export, {**counts, "missing": [], "elsewhere": {}})
    assert all(part in text for part in ("1,234", "archived: Redis has let go of these", "9 B in /out"))
    assert "Not in it" not in text
    lacking = {**counts, "archived": 0, "missing": ["2021-06-17 (live)"], "elsewhere": {"enc-1": 3}}
    text = shown(show_export, lacking)
    assert "1 windows, such as 2021-06-17 (live)" in text
    assert "3 windows, which it has in vectors of enc-1 (--encoder enc-1)" in text
    assert "let go" not in text
