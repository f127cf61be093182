"""Settings come from the environment, are described, and never show secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from memory.settings import Settings


def test_the_environment_is_read_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSWARM_NAMESPACE", "from-environment")
    monkeypatch.setenv("COINSWARM_MAX_TOP_K", "7")
    assert Settings().namespace == "from-environment"
    assert Settings().max_top_k == 7
    assert Settings(namespace="from-argument").namespace == "from-argument"


@pytest.mark.parametrize("namespace", ["", "A", "a_b", "x" * 33, "a:b"])
def test_a_malformed_namespace_is_refused(namespace: str) -> None:
    with pytest.raises(ValidationError, match="a-z, 0-9"):
        Settings(namespace=namespace)


@pytest.mark.parametrize(
    ("name", "value"),
    [("vector_algorithm", "flat"), ("vector_type", "FLOAT64"), ("max_top_k", 0), ("redis_timeout_s", 0)],
)
def test_values_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: value})  # type: ignore[arg-type]


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_secrets_do_not_show() -> None:
    settings = Settings(redis_url="redis://:s3cret@host", database_url="postgresql://u:s3cret@host/db")  # type: ignore[arg-type]
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in settings.model_dump_json()


def test_the_home_is_absolute_and_the_archive_lies_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("COINSWARM_HOME", raising=False)
    settings = Settings(archive_url=None)
    assert settings.home == tmp_path / ".coinswarm"
    assert settings.archive_location == f"file://{tmp_path}/.coinswarm/archive"
    assert settings.reports_path == tmp_path / ".coinswarm" / "reports"
