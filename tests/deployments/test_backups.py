"""`coinswarm backup` and `restore` at the terminal: what needs no server, and what is refused before one starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import rich.console

from deployments.backups import show_backup, show_restore
from memory.backup.manifest import FORMAT, MANIFEST, Manifest, encode_manifest, sealed
from memory.ledger.migrations import HEAD
from tests.deployments.command_line import coinswarm

CUT_MS = 1_624_324_200_123


def put(folder: Path, **changes: Any) -> Path:
    """A snapshot of a memory without anything in it."""
    manifest = Manifest(
        format=FORMAT,
        software="1",
        ledger_schema="0001",
        record_schema="v1",
        namespace="demo",
        cut_ms=CUT_MS,
        highest_token=7,
        files={},
        ledger_digest="a",
        semantic_digest="b",
    )
    manifest = sealed(msgspec.structs.replace(manifest, **changes))
    path = folder / "demo" / manifest.name
    path.mkdir(parents=True)
    (path / MANIFEST).write_bytes(encode_manifest(manifest))
    return path


def test_without_snapshots_the_list_says_where_it_looked(typed: Any, tmp_path: Path) -> None:
    output = typed("backup", "--list", "-n", "demo", COINSWARM_HOME=str(tmp_path))
    assert output.code == 0
    assert "No snapshots of demo" in output.stdout


def test_snapshots_are_listed_newest_first_with_what_is_wrong_with_one(typed: Any, tmp_path: Path) -> None:
    old, new = put(tmp_path), put(tmp_path, cut_ms=CUT_MS + 1)
    (old / MANIFEST).write_text("{")
    listed = typed("backup", "--list", "--to", str(tmp_path), "-n", "demo", "--json", COINSWARM_HOME=str(tmp_path))
    first, second = listed.json()["snapshots"]
    assert (first["snapshot"], first["software"]) == (str(new), "1")
    assert (second["snapshot"], "damaged" in second["problem"]) == (str(old), True)


def test_the_folder_of_each_snapshot_is_listed_in_one_piece(typed: Any, tmp_path: Path) -> None:
    path = put(tmp_path)
    shown = typed("backup", "--list", "--to", str(tmp_path), "-n", "demo", COINSWARM_HOME=str(tmp_path), COLUMNS="60")
    first, _, row = shown.stdout.splitlines()
    assert first.endswith(str(path.parent))
    assert path.name in row


def test_a_snapshot_without_memories_is_said_to_be_one(tmp_path: Path) -> None:
    out = rich.console.Console(record=True, width=200)
    told = {"cut": "2021-06-22T01:30:00.123000+00:00", "redis": {}, "ledger": {"runs": 2}, "bytes": 9, "missing": []}
    show_backup({**told, "snapshot": str(tmp_path / "typo" / "20210622T013000.123Z"), "dropped": []}, out)
    page = out.export_text()
    assert "Snapshot as of 2021-06-22 01:30:00 UTC: " in page
    assert "no memories: there are none in the namespace 'typo'" in page


def test_a_folder_of_snapshots_is_none_and_the_newest_in_it_is_named(typed: Any, tmp_path: Path) -> None:
    newest = put(tmp_path)
    output = typed("restore", str(tmp_path / "demo"), "-n", "copy", COINSWARM_HOME=str(tmp_path / "home"))
    assert output.code == 1
    assert str(newest) in output.stderr
    assert output.stderr.count("\n") == 1
    assert not (tmp_path / "home").exists()


def test_a_snapshot_of_newer_software_is_refused(typed: Any, tmp_path: Path) -> None:
    path = put(tmp_path)
    manifest = json.loads((path / MANIFEST).read_text()) | {"format": FORMAT + 1}
    (path / MANIFEST).write_text(json.dumps(manifest))
    output = typed("restore", str(path), "-n", "copy", COINSWARM_HOME=str(tmp_path / "home"))
    assert output.code == 1
    assert "Upgrade the software" in output.stderr


def test_a_snapshot_of_no_namespace_is_refused_before_anything_is_started(typed: Any, tmp_path: Path) -> None:
    path = put(tmp_path, namespace="No:Colons")
    output = typed("restore", str(path), COINSWARM_HOME=str(tmp_path / "home"))
    assert output.code == 1
    assert "'No:Colons', which is no name of one" in output.stderr
    assert not (tmp_path / "home").exists()


def test_a_restore_without_a_name_goes_where_the_snapshot_is_from(tmp_path: Path) -> None:
    nowhere = {
        "COINSWARM_REDIS_URL": "redis://127.0.0.1:1/0",
        "COINSWARM_DATABASE_URL": "postgresql://127.0.0.1:1/none",
        "COINSWARM_PREFECT_API_URL": "http://127.0.0.1:1/api",
    }
    output = coinswarm(tmp_path / "home", "restore", str(put(tmp_path)), COINSWARM_NAMESPACE="mine", **nowhere)
    assert output.code == 1
    first, last = output.stderr.splitlines()
    assert first == "Restoring into demo"
    assert "no Prefect server answers" in last


def test_an_older_ledger_in_a_snapshot_is_told() -> None:
    out = rich.console.Console(record=True, width=200)
    told = {"cut": "2021-06-22T01:30:00.123000+00:00", "redis": {}, "ledger": {"runs": 2}, "bytes": 9, "missing": []}
    show_restore({**told, "into": "copy", "source": "demo", "dry_run": True, "ledger_schema": "0001"}, out)
    assert f"is of schema 0001: restoring brings it to schema {HEAD}." in out.export_text()
