"""Strikes the runs of a worker from outside: the product's code knows nothing of it.

A process that carries out a run, and was given a folder by the variable `STRUCK`, does what the files of that folder
say: see `sitecustomize.py` beside this file. They say what the next clustering of a partition meets, and note what it
did.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

VARIABLE = "STRUCK"
DEFECT, HOLD, REACHED, CLUSTERED = "defect", "hold", "reached", "clustered"
"""Files: states of the partition that fails; of the one that waits as long as the file is there; that it waits; states
of each partition that was clustered, a line each."""
CLUSTERING = "memory.learning.clustering"
_POLL_S = 0.05


def strike(module: ModuleType, folder: Path) -> None:
    """Have the clusterer do what the folder says."""
    clusterer = module.MarketStateClusterer
    fit = clusterer.fit

    def is_named(file: str, states: int) -> bool:
        try:
            return int((folder / file).read_text(encoding="utf-8")) == states
        except FileNotFoundError:
            return False

    @wraps(fit)
    def struck(self: Any, vectors: Any, **options: Any) -> Any:
        if is_named(DEFECT, len(vectors)):
            raise RuntimeError("a defect in one partition")
        if is_named(HOLD, len(vectors)):
            (folder / REACHED).touch()
            while is_named(HOLD, len(vectors)):
                time.sleep(_POLL_S)
        fitted = fit(self, vectors, **options)
        with (folder / CLUSTERED).open("a", encoding="utf-8") as noted:
            noted.write(f"{len(vectors)}\n")
        return fitted

    clusterer.fit = struck


class _Finder(MetaPathFinder):
    """Waits for the clusterer's module: importing it here would cost each process seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != CLUSTERING:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.folder)
        return spec


class _Loader(Loader):
    def __init__(self, own: Loader, folder: Path) -> None:
        self.own, self.folder = own, folder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.own.exec_module(module)
        strike(module, self.folder)


def prepare() -> None:
    """Have this process do what the folder says, if it carries out a run and was given one."""
    if VARIABLE in os.environ and "PREFECT__FLOW_RUN_ID" in os.environ:
        sys.meta_path.insert(0, _Finder(Path(os.environ[VARIABLE])))
