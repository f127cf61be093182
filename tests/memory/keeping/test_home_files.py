"""Files of a home that may go: by age, by name, and never what is not ours or still in use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memory.keeping import home_files
from memory.keeping.errors import KeepingError

NOW = 1_000_000.0
RESULT = b'{"metadata":{"storage_key":"k","prefect_version":"3.8.8","storage_block_id":null},"result":"1"}'


def put(path: Path, content: bytes = b"12345", *, age_s: float = 100.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (NOW - age_s, NOW - age_s))
    return path


def test_of_reports_those_of_the_namespace_go_but_the_newest_night(tmp_path: Path) -> None:
    old, _, _ = (put(tmp_path / f"nightly-a-2021-06-{day}.html") for day in (17, 18, 19))
    for name in ("nightly-a-b-2021-06-17.html", "evaluation-a.html", "nightly-a-2021-06-17.html.bak"):
        put(tmp_path / name)
    put(tmp_path / "nightly-a-2021-06-18.html", age_s=1)
    assert home_files.old_reports(tmp_path, "a", NOW - 50) == [old]
    assert home_files.old_reports(tmp_path / "none", "a", NOW) == []


def test_of_logs_only_those_put_aside_go(tmp_path: Path) -> None:
    aside = put(tmp_path / "redis.log.1")
    put(tmp_path / "redis.log")
    put(tmp_path / "worker.log.2", age_s=1)
    assert home_files.old_logs(tmp_path, NOW - 50) == [aside]


def test_of_policies_those_that_the_ledger_knows_stay(tmp_path: Path) -> None:
    unknown = put(tmp_path / "p-2.pt")
    put(tmp_path / "p-1.pt")
    checkpoint = put(tmp_path / "training-3.pt")
    assert home_files.unknown_policies(tmp_path, {"p-1.pt"}, NOW - 50) == [unknown]
    assert home_files.old_checkpoints(tmp_path, NOW - 50) == [checkpoint]


def test_of_evaluations_the_last_stays_and_one_that_something_touched(tmp_path: Path) -> None:
    for key in ("a", "b", "c"):
        put(tmp_path / key / "job.json", age_s=100 if key != "b" else 10)
        os.utime(tmp_path / key, (NOW - 100, NOW - 100))
    put(tmp_path / "looks.json")
    assert home_files.old_evaluations(tmp_path, NOW - 50) == [tmp_path / "a", tmp_path / "c"]
    assert home_files.old_evaluations(tmp_path, NOW) == [tmp_path / "a", tmp_path / "c"]
    assert home_files.size_of([tmp_path / "a", tmp_path / "looks.json"]) == 10


def test_what_goes_while_it_is_looked_at_is_no_error(tmp_path: Path) -> None:
    gone = tmp_path / "training-1.pt"
    gone.symlink_to(tmp_path / "nothing")  # It is listed, and not there.
    assert home_files.old_checkpoints(tmp_path, NOW) == []
    assert home_files.size_of([gone, tmp_path / "none"]) == 0
    assert home_files.remove([tmp_path / "none"], tmp_path) == 0


def test_of_results_only_those_of_prefect_go(tmp_path: Path) -> None:
    result = put(tmp_path / "x" / "abc", RESULT)
    put(tmp_path / "new", RESULT, age_s=1)
    put(tmp_path / "thesis.tex")
    put(tmp_path / "data.json", b'{"metadata":{"author":"me"}}')
    assert home_files.old_results(tmp_path, NOW - 50) == [result]


def test_what_is_gone_is_passed_over_and_what_lies_elsewhere_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", put(tmp_path / "outside.log.1")
    inside = put(root / "key" / "job.json").parent
    link = root / "link"
    link.symlink_to(outside)
    assert home_files.remove([inside, root / "gone"], root) == 1
    assert not inside.exists()
    for path in (outside, root / ".." / "outside.log.1", link, root):
        with pytest.raises(KeepingError, match="does not lie under"):
            home_files.remove([path], root)
    assert outside.exists()
