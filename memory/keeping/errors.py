"""Errors of keeping and moving."""

from __future__ import annotations

from memory.errors import CoinswarmError


class KeepingError(CoinswarmError):
    """Something that cannot be removed, exported, imported or brought up to date as asked."""
