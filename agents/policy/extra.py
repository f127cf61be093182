"""Whether what policies need beyond the jobs is installed."""

from __future__ import annotations

from importlib.util import find_spec

from memory.errors import MissingExtraError

INSTALL = "Install it with: pip install 'coinswarm-memory[policy]'."


def has_policy_extra() -> bool:
    """Whether torch is installed; nothing is imported."""
    return find_spec("torch") is not None


def require_policy_extra() -> None:
    """MissingExtraError where torch is not installed; nothing is imported."""
    if not has_policy_extra():
        raise MissingExtraError(
            "policies that learn need torch, which is not installed.",
            remedy=INSTALL,
        )
