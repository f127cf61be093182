"""Nothing that is stored can run code when it is read: no module unpickles, evaluates, or starts a shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.local import LOGGING
from memory.embedded.home import Home
from memory.embedded.options import EmbeddedOptions
from memory.embedded.prefect_server import PrefectServer, client_environment

ROOT = Path(__file__).parents[1]
ROOMS = ("memory", "agents", "tasks", "flows", "deployments")
UNPICKLING = frozenset({"pickle", "_pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "jsonpickle"})
RUNNING = frozenset({"eval", "exec", "compile", "__import__"})
LOADERS = {
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}
"""Functions that unpickle unless they are told not to, and what they must be told."""
FORBIDDEN = frozenset(
    {"pd.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen", "pa.deserialize"}
)


def modules() -> Iterator[Path]:
    for room in ROOMS:
        yield from sorted((ROOT / room).rglob("*.py"))


def findings(source: str) -> list[str]:
    """What of a module's source could run code that was stored, line by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [f"{node.lineno}: import {name.name}" for name in node.names if root_of(name.name) in UNPICKLING]
        elif isinstance(node, ast.ImportFrom) and root_of(node.module or "") in UNPICKLING:
            found.append(f"{node.lineno}: from {node.module}")
        elif isinstance(node, ast.Call):
            found += [f"{node.lineno}: {problem}" for problem in problems_of(node)]
    return found


def root_of(module: str) -> str:
    return module.partition(".")[0]


def problems_of(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    told = {word.arg: word.value for word in call.keywords}
    if name in RUNNING or name in FORBIDDEN or name.endswith(".to_pickle"):
        yield name
    if name in LOADERS:
        word, value = LOADERS[name]
        given = told.get(word)
        if not (isinstance(given, ast.Constant) and given.value is value):
            yield f"{name} without {word}={value}"
    shell = told.get("shell")
    if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
        yield f"{name} with a shell"


def test_no_module_unpickles_evaluates_or_starts_a_shell() -> None:
    looked_at = {path.relative_to(ROOT).as_posix(): findings(path.read_text(encoding="utf-8")) for path in modules()}
    assert len(looked_at) > 150
    assert {path: found for path, found in looked_at.items() if found} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import cloudpickle.compat",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path, map_location='cpu')",
        "torch.load(path, weights_only=False)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "frame.to_pickle(path)",
    ],
)
def test_each_of_these_would_be_found(source: str) -> None:
    assert findings(source)


def test_prefect_keeps_results_as_json_and_its_server_is_closed(tmp_path: Path) -> None:
    server = PrefectServer(Home.at(tmp_path), tmp_path, EmbeddedOptions())
    list(server.prepare())
    environment = server.environment()
    for each in (environment, client_environment(Home.at(tmp_path), server.url), LOGGING):
        assert each["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"] == "true"
    assert environment["PREFECT_SERVER_API_AUTH_STRING"].startswith("coinswarm:")
    assert "*" not in environment["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"]
    words = [str(word) for word in server.command()]
    assert words[words.index("--host") + 1] == "127.0.0.1"
