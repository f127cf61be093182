"""Checkpoints of policies: arrays and JSON in one ``.npz`` file, named by their content. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from agents.policy.layout import InputLayout
from agents.policy.network import NetworkSettings, PolicyNetwork
from agents.training.settings import LearnerSettings
from memory.errors import CheckpointError
from memory.validation import validate_timestamp

FORMAT = 1
_META = "meta"
_WEIGHTS, _LAYOUT = "weights/", "layout/"


@dataclass(frozen=True, eq=False)
class PolicyCheckpoint:
    """A trained policy, whole.

    Attributes
    ----------
    layout
        What its inputs are laid out by; the encoder is named there.
    network
        Sizes of the network.
    weights
        Its parameters by name, float32.
    learner
        How it was trained; `memory_use` says what it sees when acting.
    trained_until
        No data from this time on went into it: it is refused for earlier decisions.
    temperature
        Of the sampling, trailing volatilities: softmax of action values.
    details
        What else is worth knowing, JSON-ready: steps, span, agents, seed.
    """

    layout: InputLayout
    network: NetworkSettings
    weights: dict[str, npt.NDArray[np.float32]]
    learner: LearnerSettings
    trained_until: datetime
    temperature: float
    details: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def id_(self) -> str:
        """Content hash, such as ``policy-3f2a90c1d4e5f607``: equal for equal policies, whatever machine wrote them."""
        digest = hashlib.blake2b(json.dumps(self._meta(), sort_keys=True).encode(), digest_size=8)
        for name, values in sorted(self._arrays().items()):
            digest.update(f"\x1f{name}\x1f{values.shape}\x1f".encode())
            digest.update(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes())
        return f"policy-{digest.hexdigest()}"

    def build(self) -> PolicyNetwork:
        """The network with its weights.

        Raises
        ------
        CheckpointError
            The weights do not fit the network that layout and settings describe; both shapes are named.
        """
        with torch.random.fork_rng(devices=[]):
            network = PolicyNetwork(**self.layout.shape, settings=self.network)
        expected = {name: tuple(values.shape) for name, values in network.state_dict().items()}
        held = {name: tuple(values.shape) for name, values in self.weights.items()}
        for name in sorted(expected | held):
            if expected.get(name) != held.get(name):
                raise CheckpointError(
                    f"parameter {name} has shape {held.get(name)} in the checkpoint, and the network needs "
                    f"{expected.get(name)}.",
                    remedy="Use the checkpoint with the software, layout and sizes that it was trained with, or train "
                    "anew.",
                )
        network.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in self.weights.items()})
        return network

    def check_as_of(self, timestamp: datetime) -> None:
        """CheckpointError where the policy was not known yet at an aware timestamp."""
        if timestamp < self.trained_until:
            raise CheckpointError(
                f"policy {self.id_} was trained on data up to {self.trained_until.isoformat()} and was not known at "
                f"{timestamp.isoformat()}.",
                remedy="Train one on data before that time, or let it act on a later time.",
            )

    def save(self, folder: Path) -> Path:
        """Write it into a folder under its id, atomically, and return the path; the same again changes nothing."""
        path = folder / f"{self.id_}.npz"
        if not path.exists():
            meta = np.frombuffer(json.dumps(self._meta(), sort_keys=True).encode(), dtype=np.uint8)
            write_atomically(path, {_META: meta, **self._arrays()})
        return path

    @classmethod
    def load(cls, path: str | Path) -> PolicyCheckpoint:
        """Read one that `save` wrote.

        Raises
        ------
        CheckpointError
            No such file, another format, or content that does not match its name.
        """
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
            meta = json.loads(arrays.pop(_META).tobytes())
            if meta["format"] != FORMAT:
                raise CheckpointError(
                    f"checkpoint {path} is of format {meta['format']}, and this software reads format {FORMAT}.",
                    remedy="Train the policy again, or use the software version that wrote it.",
                )
            found = cls(
                layout=InputLayout.from_parts(meta["layout"], _under(_LAYOUT, arrays)),
                network=NetworkSettings(**meta["network"]),
                weights={name: values.astype(np.float32) for name, values in _under(_WEIGHTS, arrays).items()},
                learner=LearnerSettings(**meta["learner"]),
                trained_until=validate_timestamp(datetime.fromisoformat(meta["trained_until"]), "trained_until"),
                temperature=float(meta["temperature"]),
                details=meta["details"],
            )
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"checkpoint {path} cannot be read ({type(error).__name__}: {error}).",
                remedy="Give the path of a checkpoint that train_agents wrote.",
            ) from error
        if path.stem.startswith("policy-") and path.stem != found.id_:
            raise CheckpointError(
                f"checkpoint {path} holds other content than its name says ({found.id_}).",
                remedy="The file was changed after it was written: take the original, or train anew.",
            )
        return found

    def _meta(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "layout": self.layout.to_dict(),
            "network": asdict(self.network),
            "learner": asdict(self.learner),
            "trained_until": self.trained_until.isoformat(),
            "temperature": self.temperature,
            "details": self.details,
        }

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {
            **{f"{_LAYOUT}{name}": values for name, values in self.layout.arrays().items()},
            **{f"{_WEIGHTS}{name}": values for name, values in self.weights.items()},
        }


def weights_of(network: PolicyNetwork) -> dict[str, npt.NDArray[np.float32]]:
    """Parameters of a network by name."""
    return {name: values.detach().cpu().numpy().copy() for name, values in network.state_dict().items()}


def write_atomically(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays as ``.npz``: the file is there whole and on the disk, or not at all."""
    with _atomic(path) as handle:
        np.savez(handle, **dict(arrays))  # type: ignore[arg-type]


@contextmanager
def _atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_training_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write what a training goes on from, atomically: tensors, numbers, text, and lists and dictionaries of them."""
    with _atomic(path) as handle:
        torch.save(dict(state), handle)


def load_training_state(path: Path) -> dict[str, Any]:
    """Read what `save_training_state` wrote; only tensors and plain values are read, no code.

    Raises
    ------
    CheckpointError
        No such file, or one that holds anything else.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"training state {path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}).",
            remedy="Remove it to train from the beginning.",
        ) from error
    return state


def _under(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
