"""`coinswarm --version`: one line, or one object."""

from __future__ import annotations

import platform
from importlib import metadata

import pytest

from deployments import versions
from memory.errors import UnsupportedPlatformError
from memory.ledger.migrations import HEAD
from tests.deployments.conftest import Typed


def test_versions_are_one_line(typed: Typed) -> None:
    told = typed("--version")
    assert (told.code, told.stderr, told.stdout.count("\n")) == (0, "", 1)
    for part in (
        f"coinswarm {metadata.version('coinswarm-memory')}",
        f"Python {platform.python_version()}",
        f"Prefect {metadata.version('prefect')}",
        f"redis-py {metadata.version('redis')}",
        f"ledger schema {HEAD}",
    ):
        assert part in told.stdout


def test_versions_are_an_object_whichever_option_comes_first(typed: Typed) -> None:
    found = typed("--version", "--json").json()
    assert found == typed("--json", "--version").json()
    assert found["prefect"] == metadata.version("prefect")
    assert set(found["embedded"]) == {"redis", "search", "postgres"}


def test_where_no_embedded_servers_are_that_is_said(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> None:
        raise UnsupportedPlatformError("there are none.", remedy="Use your own.")

    monkeypatch.setattr(versions, "find_programs", nowhere)
    assert "no embedded servers" in typed("--version").stdout


@pytest.mark.parametrize("words", [("--json",), ("--json", "status")])
def test_json_alone_before_a_command_is_a_usage_error(typed: Typed, words: tuple[str, ...]) -> None:
    told = typed(*words)
    assert (told.code, told.stdout) == (2, "")
    assert "after the command" in told.stderr
