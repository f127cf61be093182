"""Whether what policies need beyond the jobs is installed."""

from __future__ import annotations

from importlib.util import find_spec

from memory.errors import MissingExtraError


def require_policy_extra() -> None:
    """MissingExtraError where torch is not installed; nothing is imported."""
    if find_spec("torch") is None:
        raise MissingExtraError(
            "policies that learn need torch, which is not installed.",
            remedy="Install it with: pip install 'coinswarm-memory[policy]'.",
        )
