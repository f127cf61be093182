"""Strikes the runs of a worker from outside: the product's code knows nothing of it.

A process that carries out a run, and was given a folder by the variable `STRUCK`, does what the files of that folder
say (`tests/rig/strikes.py`): see `sitecustomize.py` beside this file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from strikes import Strikes

VARIABLE = "STRUCK"
CLUSTERING = "memory.learning.clustering"


class _Finder(MetaPathFinder):
    """Waits for the clusterer's module: importing it here would cost each process seconds."""

    def __init__(self, strikes: Strikes) -> None:
        self.strikes = strikes

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != CLUSTERING:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.strikes)
        return spec


class _Loader(Loader):
    def __init__(self, own: Loader, strikes: Strikes) -> None:
        self.own, self.strikes = own, strikes

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.own.exec_module(module)
        self.strikes.strike(module)


def prepare() -> None:
    """Have this process do what the folder says, if it carries out a run and was given one."""
    if VARIABLE in os.environ and "PREFECT__FLOW_RUN_ID" in os.environ:
        sys.meta_path.insert(0, _Finder(Strikes(Path(os.environ[VARIABLE]))))
