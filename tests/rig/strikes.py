"""What the clustering of one partition meets in a process that a test does not hold: a folder tells it, and is told."""

from __future__ import annotations

import time
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

DEFECT, HOLD, REACHED, CLUSTERED = "defect", "hold", "reached", "clustered"
"""Files: states of the partition that fails; of the one that waits as long as the file is there; that it waits; states
of each partition that was clustered, a line each."""
_POLL_S = 0.05


class Strikes:
    """A folder through which a test strikes runs, and hears what they did.

    Parameters
    ----------
    folder
        Shared with the processes of the runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # --- the test's side ---------------------------------------------------------------------------------------

    def tell(self, what: str, states: int | None) -> None:
        """Strike the partition of so many states from the next clustering on; None strikes it no longer."""
        path = self.folder / what
        if states is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(str(states), encoding="utf-8")

    def spare(self) -> None:
        """Strike nothing any more, and forget what was noted."""
        for what in (DEFECT, HOLD, REACHED, CLUSTERED):
            self.tell(what, None)

    def clustered(self) -> list[int]:
        """States of the partitions that were clustered since this was asked last, sorted."""
        noted = self.folder / CLUSTERED
        found = sorted(map(int, noted.read_text(encoding="utf-8").split())) if noted.exists() else []
        noted.unlink(missing_ok=True)
        return found

    # --- the run's side ----------------------------------------------------------------------------------------

    def strike(self, clustering: ModuleType) -> None:
        """Have the clusterer of this process (`memory.learning.clustering`) do what the folder says."""
        clusterer = clustering.MarketStateClusterer
        fit = clusterer.fit

        @wraps(fit)
        def struck(clusterer: Any, vectors: Any, **options: Any) -> Any:
            if self._is_named(DEFECT, len(vectors)):
                raise RuntimeError("a defect in one partition")
            if self._is_named(HOLD, len(vectors)):
                (self.folder / REACHED).touch()
                while self._is_named(HOLD, len(vectors)):
                    time.sleep(_POLL_S)
            fitted = fit(clusterer, vectors, **options)
            with (self.folder / CLUSTERED).open("a", encoding="utf-8") as noted:
                noted.write(f"{len(vectors)}\n")
            return fitted

        clusterer.fit = struck

    def _is_named(self, what: str, states: int) -> bool:
        try:
            return int((self.folder / what).read_text(encoding="utf-8")) == states
        except FileNotFoundError:
            return False
