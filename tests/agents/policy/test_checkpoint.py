"""Checkpoints of policies: read back as they were, refused where they are not what they seem, never unpickled."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.policy.checkpoint import PolicyCheckpoint, load_training_state, save_training_state
from agents.policy.layout import InputLayout
from agents.policy.network import NetworkSettings
from memory.errors import CheckpointError


class _Evil:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_load_reads_what_save_wrote(checkpoint: PolicyCheckpoint, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path)
    found = PolicyCheckpoint.load(path)
    assert path.stem == found.id_ == checkpoint.id_
    assert found.layout.to_dict() == checkpoint.layout.to_dict()
    assert (found.learner, found.network, found.trained_until) == (
        checkpoint.learner,
        checkpoint.network,
        checkpoint.trained_until,
    )
    for name, values in checkpoint.weights.items():
        np.testing.assert_array_equal(found.weights[name], values)


def test_other_weights_are_another_policy(checkpoint: PolicyCheckpoint) -> None:
    weights = {**checkpoint.weights, "nothing": checkpoint.weights["nothing"] + 1}
    assert replace(checkpoint, weights=weights).id_ != checkpoint.id_


def test_another_shape_is_refused_with_both_shapes(checkpoint: PolicyCheckpoint) -> None:
    other = replace(checkpoint, network=NetworkSettings(hidden=32, token_hidden=8, knowledge_hidden=4))
    with pytest.raises(CheckpointError, match=r"\(4, 16\).*\(4, 32\)"):
        other.build()


def test_weights_of_another_layout_are_refused(checkpoint: PolicyCheckpoint, layout: InputLayout) -> None:
    wide = replace(layout, projection=np.zeros((256, 20)))
    with pytest.raises(CheckpointError, match=r"state_layers.*\(16, \d+\)"):
        replace(checkpoint, layout=wide).build()


def test_changed_content_is_refused(checkpoint: PolicyCheckpoint, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path)
    other = replace(checkpoint, temperature=9.0).save(tmp_path / "other")
    path.write_bytes(other.read_bytes())
    with pytest.raises(CheckpointError, match="other content than its name"):
        PolicyCheckpoint.load(path)


def test_a_file_that_would_have_to_be_unpickled_is_refused(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "evil.npz"
    np.savez(path, meta=np.array([_Evil(mark)], dtype=object))
    with pytest.raises(CheckpointError, match="cannot be read"):
        PolicyCheckpoint.load(path)
    state = tmp_path / "evil.pt"
    torch.save({"step": _Evil(mark)}, state)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_training_state(state)
    assert not mark.exists()


def test_a_file_that_was_cut_off_is_refused(checkpoint: PolicyCheckpoint, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path)
    path.write_bytes(path.read_bytes()[:5_000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        PolicyCheckpoint.load(path)


def test_no_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.npz"):
        PolicyCheckpoint.load(tmp_path / "none.npz")


def test_a_policy_is_refused_before_it_was_trained(checkpoint: PolicyCheckpoint) -> None:
    checkpoint.check_as_of(checkpoint.trained_until)
    with pytest.raises(CheckpointError, match="was not known at"):
        checkpoint.check_as_of(checkpoint.trained_until - timedelta(minutes=1))


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_training_state(path, {"step": 1})
    with pytest.raises(Exception, match="lambda"):
        save_training_state(path, {"step": lambda: 2})
    assert load_training_state(path) == {"step": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["state.pt"]
