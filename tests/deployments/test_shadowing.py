"""Another package that is called like one of ours must be named, not run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deployments.main import ROOMS, shadowing_problem

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_shadows_the_rooms_here() -> None:
    assert shadowing_problem() is None


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("place", ["{room}/__init__.py", "{room}.py"], ids=["package", "module"])
def test_another_package_or_module_of_the_same_name_is_refused_with_its_place(
    room: str, place: str, tmp_path: Path
) -> None:
    file = tmp_path / place.format(room=room)
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['coinswarm', 'status']"
    load = (
        "import importlib.util as u; "
        f"s = u.spec_from_file_location('entry', {str(ROOT / 'deployments' / 'main.py')!r}); "
        "m = u.module_from_spec(s); s.loader.exec_module(m); m.main()"
    )
    done = subprocess.run([sys.executable, "-c", f"{program}; {load}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert str(file.parent) in done.stderr
    assert "Uninstall the other package" in done.stderr
