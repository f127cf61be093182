"""Where Prefect keeps results."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments import results
from memory.settings import Settings

FOLDER = "PREFECT_RESULTS_LOCAL_STORAGE_PATH"
BLOCK = "PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK"


@pytest.mark.parametrize("url", ["/srv/results", "file:///srv/results"])
def test_a_folder_is_a_path_or_a_file_url(url: str) -> None:
    environment = results.environment(Settings(results_url=url))
    assert environment[FOLDER] == "/srv/results"
    assert BLOCK not in environment
    assert results.are_local(Settings(results_url=url))


def test_a_relative_folder_is_the_same_from_wherever_a_run_starts() -> None:
    assert Path(results.environment(Settings(results_url="results"))[FOLDER]).is_absolute()


def test_a_bucket_becomes_a_block_of_the_namespace() -> None:
    settings = Settings(results_url="s3://bucket/results", namespace="mine")
    assert results.environment(settings)[BLOCK] == "remote-file-system/coinswarm-results-mine"
    assert not results.are_local(settings)


def test_a_block_of_ones_own_is_taken_by_name() -> None:
    settings = Settings(results_url="block:s3-bucket/mine")
    assert results.environment(settings)[BLOCK] == "s3-bucket/mine"


@pytest.mark.parametrize("name", ["block:", "block:mine", "block:s3/mine/too", "block:S3/Mine"])
def test_a_name_of_a_block_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(results.ResultsError, match="block:TYPE/NAME"):
        results.environment(Settings(results_url=name))


def test_credentials_in_the_url_are_refused() -> None:
    with pytest.raises(ValidationError):
        Settings(results_url="s3://key:secret@bucket")


@pytest.mark.parametrize("url", [None, "/srv/results", "s3://bucket", "block:s3-bucket/mine"])
def test_results_are_json_wherever_they_lie(url: str | None) -> None:
    assert results.environment(Settings(results_url=url))["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"


def test_where_nothing_is_configured_prefect_decides() -> None:
    assert not {FOLDER, BLOCK} & set(results.environment(Settings()))
    assert results.are_local(Settings())
