"""Pure functions on arrays: clusters, statistics, folds. No server, no wall clock, no hidden randomness.

Submodules are imported by name; this file stays light.
"""

from __future__ import annotations

ALGORITHM_VERSION = "4"
"""Part of every knowledge line: raise it where the same experiences would be summarised or folded differently."""
