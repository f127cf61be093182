"""A command that a message names works on the namespace that the message is about."""

from __future__ import annotations

import pytest

from memory.commands import VARIABLE, command


@pytest.mark.parametrize(
    ("taken", "namespace", "named"),
    [
        pytest.param(None, "default", False, id="what a command takes by itself"),
        pytest.param(None, "crypto", True, id="another"),
        pytest.param("crypto", "crypto", True, id="that of this environment, which another shell may not have"),
        pytest.param("crypto", "default", True, id="the shipped one, where the environment has another"),
        pytest.param("", "default", False, id="an empty variable"),
    ],
)
def test_the_namespace_is_named_where_a_bare_command_might_take_another(
    monkeypatch: pytest.MonkeyPatch, taken: str | None, namespace: str, named: bool
) -> None:
    if taken is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, taken)
    expected = "coinswarm run nightly"
    assert command("run nightly", namespace) == (f"{expected} --namespace {namespace}" if named else expected)
