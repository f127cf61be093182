"""Training a policy: one task that goes on where it was killed, and what it leaves for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from agents.encoder import StateEncoder
from agents.policy.checkpoint import PolicyCheckpoint
from agents.policy.layout import InputLayout
from agents.trainer import CentralizedTrainer, TrainingSettings
from agents.training.settings import LearnerSettings
from memory import MemoryConnection
from memory.errors import CheckpointError, EncoderError, InvalidRecordError
from memory.ledger.training import PolicyRecord, TrainingFigures
from memory.settings import Settings
from tasks.progress import announce, begin
from tasks.retry import retried
from tasks.workspace import Workspace, open_workspace

REPORTS = 20
"""Times that a training tells its figures, and saves what it goes on from."""
_SHOWN = ("loss", "learned_net_bp", "held_out_net_bp", "held_out_in_position")
"""Last figures that a run shows beside its counts."""
_LEARNER = {field.name for field in fields(LearnerSettings)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is to be trained: plain values.

    Attributes
    ----------
    agent_id
        Whom the policy is for.
    start, end
        Span of decisions, on the grid of windows.
    source, encoder
        Of the experiences; see `flows.forms.train_agents.Parameters`.
    settings
        Fields of `agents.trainer.TrainingSettings` and of `LearnerSettings` by name.
    """

    namespace: str
    run_id: str
    agent_id: str
    start: datetime
    end: datetime
    source: str | None
    encoder: str | None
    settings: Mapping[str, Any]

    def as_settings(self) -> TrainingSettings:
        """The settings, put together."""
        learner = {name: value for name, value in self.settings.items() if name in _LEARNER}
        rest = {name: value for name, value in self.settings.items() if name not in _LEARNER}
        return TrainingSettings(learner=LearnerSettings(**learner), **rest)


def policy_folder(settings: Settings) -> Path:
    """Where the policies of a namespace lie."""
    return settings.policies_path / settings.namespace


@retried()
def train_policy(training: Training) -> dict[str, Any]:
    """Train the policy, or go on where a killed run saved; write it, and note it in the ledger.

    Raises
    ------
    InvalidRecordError
        The span holds nothing to learn from.
    EncoderError
        The encoder is not registered with the namespace, or was fitted on data later than the span.
    """
    with open_workspace(training.namespace) as workspace:
        encoder_id = workspace.with_memory(lambda mem: _encoder_id(mem, training.encoder))
        trainer = workspace.with_memory(
            lambda mem: _loaded(mem, workspace, training, encoder_id), encoder_id=encoder_id
        )
        return _train(trainer, workspace, training)


async def _encoder_id(mem: MemoryConnection, encoder: str | None) -> str:
    known = encoder or await mem.encoders.current()
    if known is None:
        raise InvalidRecordError(
            f"namespace {mem.namespace} holds no experiences.",
            remedy="Record some first: coinswarm run record_experiences.",
            field="namespace",
        )
    return known


async def _loaded(
    mem: MemoryConnection, workspace: Workspace, training: Training, encoder_id: str
) -> CentralizedTrainer:
    layout = InputLayout.of_encoder(await _encoder(mem, encoder_id), cost_bp=workspace.settings.cost_bp)
    trainer = CentralizedTrainer(mem, layout, training.as_settings())
    begin("reading experiences")
    await trainer.load(training.start, training.end, source=training.source)
    return trainer


def _train(trainer: CentralizedTrainer, workspace: Workspace, training: Training) -> dict[str, Any]:
    folder = policy_folder(workspace.settings)
    state = folder / f"{trainer.training_id}.pt"
    done = _trained_before(workspace, training, trainer.training_id)
    if done is not None:
        checkpoint, path = done
        announce(f"this training has ended before: {checkpoint.id_}")
        return _result(trainer, training, checkpoint, path, workspace)
    try:
        if trainer.resume(state):
            announce(f"going on at step {trainer.step} of {trainer.settings.steps}")
    except CheckpointError as error:
        # What was written cannot be read: all of it can be learned again.
        announce(f"training from the beginning: {error.message}")
    _learn(trainer, workspace, training, state)
    checkpoint = trainer.checkpoint()
    path = checkpoint.save(folder)
    workspace.ledger.training.add_policy(
        PolicyRecord(
            namespace=training.namespace,
            agent_id=training.agent_id,
            checkpoint_id=checkpoint.id_,
            encoder_id=trainer.layout.encoder_id,
            path=str(path),
            trained_until=checkpoint.trained_until,
            run_id=training.run_id,
            details={**checkpoint.details, "counts": dict(trainer.data.counts)},
        )
    )
    state.unlink(missing_ok=True)
    return _result(trainer, training, checkpoint, path, workspace)


def _learn(trainer: CentralizedTrainer, workspace: Workspace, training: Training, state: Path) -> None:
    """All steps that are left; figures are told and kept, and the state is saved, now and then."""
    steps = trainer.settings.steps
    every = max(1, steps // REPORTS)
    sums: dict[str, float] = {}
    counted = 0
    while not trainer.done:
        figures = trainer.train_step()
        counted += 1
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + value
        if trainer.step % every == 0 or trainer.done:
            means = {name: value / counted for name, value in sums.items() if name != "step"}
            means |= trainer.evaluate()
            row = TrainingFigures(step=trainer.step, figures=means)
            workspace.ledger.training.record(training.namespace, training.run_id, trainer.training_id, [row])
            trainer.save(state)
            begin(f"step {trainer.step:,} of {steps:,}, loss {means['loss']:.4f}")
            sums, counted = {}, 0


def _trained_before(workspace: Workspace, training: Training, training_id: str) -> tuple[PolicyCheckpoint, Path] | None:
    """The policy that this very training ended in before, and its file, where that is still there and whole."""
    for policy in workspace.ledger.training.policies(training.namespace, agent_id=training.agent_id):
        if policy.details.get("training") == training_id:
            try:
                return PolicyCheckpoint.load(policy.path), Path(policy.path)
            except CheckpointError as error:
                announce(f"training again: {error.message}")
    return None


async def _encoder(mem: MemoryConnection, encoder_id: str) -> StateEncoder:
    record = await mem.encoders.get(encoder_id)
    if record is None:
        raise EncoderError(
            f"encoder {encoder_id} is not registered with namespace {mem.namespace}.",
            remedy="Record with it first, or name one that 'coinswarm status' shows.",
        )
    return StateEncoder.from_json(json.dumps(record.definition))


def _result(
    trainer: CentralizedTrainer, training: Training, checkpoint: PolicyCheckpoint, path: Path, workspace: Workspace
) -> dict[str, Any]:
    curve = workspace.ledger.training.figures(trainer.training_id)
    last = dict(curve[-1].figures) if curve else {}
    return {
        "agent": training.agent_id,
        "from": training.start.date().isoformat(),
        "to": training.end.date().isoformat(),
        "checkpoint": checkpoint.id_,
        "path": str(path),
        "trained_until": checkpoint.trained_until.isoformat(),
        "memory_use": checkpoint.learner.memory_use,
        "steps": int(checkpoint.details["steps"]),
        **trainer.data.counts,
        "agents": list(trainer.data.agents),
        "shared": trainer.published.shared,
        "published": asdict(trainer.published),
        **{name: round(last[name], 4) for name in _SHOWN if name in last},
        "figures": last,
        "curve": [{"step": row.step, **row.figures} for row in curve],
    }
