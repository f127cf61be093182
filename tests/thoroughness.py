"""How much is tried of what tests draw or enumerate: less in `make test`, more in `make thorough`."""

from __future__ import annotations

from hypothesis import settings

PROFILE = "thorough"
"""Profile of hypothesis that asks for more; `tests/conftest.py` registers it, `--hypothesis-profile` chooses it."""


def is_thorough() -> bool:
    """Whether this run was asked for more."""
    return settings.get_current_profile_name() == PROFILE


def examples(few: int, many: int) -> int:
    """How many examples a property is tried on: many where the run is thorough. Each property names both."""
    return many if is_thorough() else few
