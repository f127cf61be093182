"""What is not a whole snapshot of this software is refused, and the file at fault is named."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from memory.backup.manifest import (
    FORMAT,
    MANIFEST,
    FileEntry,
    Manifest,
    check_files,
    encode_manifest,
    read_manifest,
    sealed,
    sha256_of,
)
from memory.backup.snapshots import PARTIAL, Partial, Progress, drop_old, list_snapshots, newest_snapshot
from memory.errors import SnapshotError

CUT_MS = 1_624_324_200_123


def snapshot(folder: Path, cut_ms: int = CUT_MS, **changes: object) -> Path:
    """A snapshot of one file."""
    path = folder / f"at-{cut_ms}"
    (path / "redis").mkdir(parents=True)
    file = path / "redis" / "access-00000.parquet"
    file.write_bytes(b"rows of counters")
    manifest = Manifest(
        format=FORMAT,
        software="1",
        ledger_schema="0001",
        record_schema="v1",
        namespace="demo",
        cut_ms=cut_ms,
        highest_token=7,
        files={"redis/access-00000.parquet": FileEntry(part="redis/access", sha256=sha256_of(file), bytes=16, rows=2)},
        ledger_digest="a",
        semantic_digest="b",
    )
    manifest = sealed(msgspec.structs.replace(manifest, **changes))
    (path / MANIFEST).write_bytes(encode_manifest(manifest))
    return path


def test_a_whole_snapshot_says_what_it_holds(tmp_path: Path) -> None:
    path = snapshot(tmp_path)
    manifest = read_manifest(path)
    assert manifest.name == "20210622T011000.123Z"
    assert manifest.rows("redis") == {"access": 2}
    assert manifest.paths("redis", "access") == ["redis/access-00000.parquet"]
    assert check_files(path, manifest) == 16


def test_a_snapshot_is_for_the_eyes_of_its_owner_wherever_it_lies(tmp_path: Path) -> None:
    partial = Partial.begin(tmp_path / "another disk", Progress(namespace="demo", life="", token=1, knowledge=""))
    assert partial.path.stat().st_mode & 0o777 == 0o700


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    path = snapshot(tmp_path)
    (path / "redis/access-00000.parquet").write_bytes(b"rows of Counters")
    with pytest.raises(SnapshotError, match=r"access-00000\.parquet was changed or damaged"):
        check_files(path, read_manifest(path))


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = snapshot(tmp_path)
    (path / "redis/access-00000.parquet").write_bytes(b"rows of")
    with pytest.raises(SnapshotError, match=r"access-00000\.parquet is cut off: 7 bytes of 16"):
        check_files(path, read_manifest(path))


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    path = snapshot(tmp_path)
    (path / "redis/access-00000.parquet").unlink()
    with pytest.raises(SnapshotError, match=r"access-00000\.parquet cannot be read"):
        check_files(path, read_manifest(path))


def test_a_newer_format_asks_for_newer_software(tmp_path: Path) -> None:
    path = snapshot(tmp_path, format=FORMAT + 1)
    with pytest.raises(SnapshotError, match="Upgrade the software"):
        read_manifest(path)


def test_a_newer_format_is_told_from_a_damaged_one_whatever_else_it_holds(tmp_path: Path) -> None:
    path = snapshot(tmp_path)
    (path / MANIFEST).write_text('{"format": 99, "files": ["another shape"]}')
    with pytest.raises(SnapshotError, match="has format 99"):
        read_manifest(path)


def test_a_manifest_that_is_cut_off_is_damaged(tmp_path: Path) -> None:
    path = snapshot(tmp_path)
    content = (path / MANIFEST).read_bytes()
    (path / MANIFEST).write_bytes(content[: len(content) // 2])
    with pytest.raises(SnapshotError, match="damaged or cut off"):
        read_manifest(path)


def test_a_manifest_that_was_changed_does_not_match_its_seal(tmp_path: Path) -> None:
    path = snapshot(tmp_path)
    (path / MANIFEST).write_bytes((path / MANIFEST).read_bytes().replace(b'"demo"', b'"memo"'))
    with pytest.raises(SnapshotError, match="does not match its seal"):
        read_manifest(path)


@pytest.mark.parametrize("name", ["policies/../../other/p-1.npz", "/etc/hostname", ".."])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    path = snapshot(tmp_path, files={name: FileEntry(part="policies", sha256="0", bytes=1)})
    with pytest.raises(SnapshotError, match="leads out of the snapshot"):
        read_manifest(path)


def test_a_link_to_a_file_elsewhere_is_refused_whatever_it_holds(tmp_path: Path) -> None:
    path = snapshot(tmp_path)
    file = path / "redis/access-00000.parquet"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SnapshotError, match="leads out of the snapshot"):
        check_files(path, read_manifest(path))


def test_the_folder_above_is_no_snapshot_and_the_newest_inside_is_named(tmp_path: Path) -> None:
    snapshot(tmp_path)
    newest = snapshot(tmp_path, CUT_MS + 1)
    with pytest.raises(SnapshotError, match=str(newest)):
        read_manifest(tmp_path)


# --- folders ---------------------------------------------------------------------------------------------------


def test_only_the_newest_are_kept_and_what_cannot_be_read_is_left_for_a_person(tmp_path: Path) -> None:
    paths = [snapshot(tmp_path, CUT_MS + number) for number in range(4)]
    (paths[0] / MANIFEST).write_text("nothing")
    assert drop_old(tmp_path, 2) == [paths[1]]
    assert [item.path for item in list_snapshots(tmp_path)] == [paths[0], paths[2], paths[3]]
    assert [item.problem != "" for item in list_snapshots(tmp_path)] == [True, False, False]
    assert newest_snapshot(tmp_path) == paths[3]
    assert drop_old(tmp_path, 2) == []


def test_the_one_just_written_is_kept_where_its_clock_is_behind_that_of_the_others(tmp_path: Path) -> None:
    first, second = snapshot(tmp_path, CUT_MS + 1), snapshot(tmp_path, CUT_MS + 2)
    written = snapshot(tmp_path, CUT_MS)
    assert drop_old(tmp_path, 2, written) == [first]
    assert drop_old(tmp_path, 1, written) == [second]
    assert drop_old(tmp_path, 1, written) == []


def test_what_a_killed_drop_left_goes_with_the_next(tmp_path: Path) -> None:
    snapshot(tmp_path)
    left = tmp_path / ".dropped-at-1"
    left.mkdir()
    drop_old(tmp_path, 7)
    assert not left.exists()


def test_where_nothing_is_there_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="coinswarm backup"):
        newest_snapshot(tmp_path / "nobody")


def begun(folder: Path) -> Partial:
    partial = Partial.begin(folder, Progress(namespace="demo", life="1", token=1, knowledge="k", cut_ms=CUT_MS))
    for name in ("one", "two"):
        with partial.new_file(f"redis/{name}.parquet") as path:
            path.write_text(name)
        partial.note(f"redis/{name}.parquet", f"redis/{name}", rows=1)
        partial.finish(f"redis/{name}")
    return partial


def test_what_is_whole_is_kept_and_the_part_of_a_file_that_is_not_is_forgotten(tmp_path: Path) -> None:
    begun(tmp_path)
    (tmp_path / PARTIAL / "redis/two.parquet").write_text("tw")
    found = Partial.find(tmp_path)
    assert found is not None
    assert found.keep_whole_files() == 1
    assert (found.is_done("redis/one"), found.is_done("redis/two")) == (True, False)


def test_a_snapshot_under_way_is_in_no_list(tmp_path: Path) -> None:
    begun(tmp_path)
    assert list_snapshots(tmp_path) == []


def test_what_another_version_of_the_software_began_is_not_taken_up(tmp_path: Path) -> None:
    partial = begun(tmp_path)
    partial.progress.software = "another"
    partial.save()
    assert Partial.find(tmp_path) is None


def test_files_that_nothing_names_do_not_get_into_a_snapshot(tmp_path: Path) -> None:
    partial = begun(tmp_path)
    with partial.new_file("redis/stray.parquet") as path:
        path.write_text("stray")
    manifest = read_manifest(snapshot(tmp_path / "other"))
    files = dict(partial.progress.files)
    final = partial.commit(sealed(msgspec.structs.replace(manifest, files=files)))
    assert sorted(path.relative_to(final).as_posix() for path in final.rglob("*.*")) == [
        MANIFEST,
        "redis/one.parquet",
        "redis/two.parquet",
    ]
    assert check_files(final, read_manifest(final)) == 6
