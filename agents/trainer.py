"""Central training, decentralised execution: one learner over the experiences of all agents, a policy for each to run.

The whole of it on this page: read what all agents lived through, share what is good enough, see each state through one
agent's eyes with the memories and knowledge of its own time, and learn from prioritised draws::

    trainer = CentralizedTrainer(mem, InputLayout.of_encoder(encoder), TrainingSettings(steps=600))
    await trainer.load(start, end)
    while not trainer.done:
        figures = trainer.train_step()
    path = trainer.checkpoint().save(folder)

A training is a function of the data, the settings and the seed. Killed and resumed from what `save` wrote, it ends in
the same weights, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from agents.policy.checkpoint import PolicyCheckpoint, load_training_state, save_training_state, weights_of
from agents.policy.inputs import volatility_of
from agents.policy.layout import InputLayout
from agents.policy.network import HOLD, NetworkSettings, greedy_actions
from agents.training.data import TrainingData, training_data
from agents.training.learner import DoubleDQN
from agents.training.reading import PublicationCounts, add_knowledge, publish_experiences, read_windows
from agents.training.replay import PrioritisedReplay
from agents.training.settings import LearnerSettings
from memory import MemoryConnection
from memory.errors import CheckpointError, InvalidRecordError
from memory.records import from_ms, to_ms
from memory.tables import WindowData
from memory.validation import validate_number
from memory.window import Window

_MS_PER_HOUR = 3_600_000


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How a training goes.

    Parameters
    ----------
    steps
        Steps of the optimiser. 600 of 512 draws see each state of a week of three products some ten times. With more
        the noise is learned by heart: on three days of the sample the held-out day went from 0.02 bp a decision after
        400 steps to -0.48 after 1,900, while what was learned from went from 2.2 to 4.7.
    seed
        Of the first weights and of the draws.
    device
        ``auto``, ``cpu`` or ``cuda``.
    temperature
        Of the policy's sampling, trailing volatilities: actions whose values differ by this are e times as likely as
        one another.
    max_states
        Only the latest states are learned from; all of the span are remembered.
    held_out_hours
        Last hours of the span that are not learned from: what a greedy policy brings there is shown, and decides
        nothing.
    publish
        Whether experiences of enough quality are shared first.
    learner, network
        How it learns, and with how large a network.
    """

    steps: int = 600
    seed: int = 0
    device: str = "auto"
    temperature: float = 0.1
    max_states: int = 40_000
    held_out_hours: int = 24
    publish: bool = True
    learner: LearnerSettings = field(default_factory=LearnerSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, 1e9),
            ("seed", 0, 2**63 - 1),
            ("temperature", 1e-6, 1e6),
            ("max_states", 1, 1e9),
            ("held_out_hours", 0, 24 * 365),
        ):
            validate_number(getattr(self, name), name, low, high)


class CentralizedTrainer:
    """Trains one policy on the experiences of all agents.

    Parameters
    ----------
    mem
        An open memory that holds the experiences; None where `load_windows` is given them.
    layout
        What the policy's inputs are laid out by.
    settings
        How it trains; the defaults where None.

    Attributes
    ----------
    data
        What it learns from, after `load`.
    published
        What became of the experiences that were offered to the shared pool.
    """

    def __init__(
        self, mem: MemoryConnection | None, layout: InputLayout, settings: TrainingSettings | None = None
    ) -> None:
        self.mem = mem
        self.layout = layout
        self.settings = settings = settings or TrainingSettings()
        self.learner = DoubleDQN(
            layout, settings.learner, network=settings.network, seed=settings.seed, device=settings.device
        )
        self.published = PublicationCounts()

    # --- data ------------------------------------------------------------------------------------------------

    async def load(self, start: datetime, end: datetime, *, source: str | None = None) -> TrainingData:
        """Read the experiences of all agents decided in [start, end), share the good ones, and prepare to learn.

        Parameters
        ----------
        start, end
            Aware UTC, on the grid of windows.
        source
            live, replay or backtest; the one with the most experiences where None.

        Raises
        ------
        InvalidRecordError
            The span holds nothing to learn from.
        EncoderError
            The encoder was fitted on data later than `start`.
        StoreUnavailableError
            Redis went away; load again.
        """
        mem = self._memory()
        if not await mem.encoders.ids():
            raise InvalidRecordError(
                f"namespace {mem.namespace} holds no experiences.",
                remedy="Record some first: coinswarm run record_experiences.",
                field="namespace",
            )
        await mem.encoders.check_as_of(self.layout.encoder_id, start)
        windows = await read_windows(mem, self.layout, _windows(start, end), source)
        if self.settings.publish and windows:
            origin = windows[0].states.source
            self.published = await publish_experiences(
                mem, start, end, encoder_id=self.layout.encoder_id, source=origin
            )
        data = self.load_windows(
            windows,
            end,
            min_quality=mem.settings.shared_min_quality,
            shared_days=mem.settings.shared_retention_days,
        )
        if self.settings.learner.use.retrieves:
            data, known = await add_knowledge(mem, self.layout, data)
            data.counts["states_with_knowledge"] = known
            self._data = data
            self.__dict__.pop("training_id", None)
        return data

    def load_windows(
        self, windows: Sequence[WindowData], end: datetime, *, min_quality: float = 0.7, shared_days: int = 30
    ) -> TrainingData:
        """Prepare to learn from the tables of some windows, without knowledge; for a memory, `load` does it."""
        cut_ms = to_ms(end) - self.settings.held_out_hours * _MS_PER_HOUR
        data = training_data(
            self.layout,
            windows,
            gamma=self.settings.learner.gamma,
            min_quality=min_quality,
            shared_days=shared_days,
            max_states=self.settings.max_states,
            until_ms=cut_ms,
        )
        known = [int(window.experiences.known_at_ms.max()) for window in windows if len(window.experiences)]
        self._trained_until = max([end, *map(from_ms, known)])
        self._data = data
        self.__dict__.pop("training_id", None)
        counterfactual = self.settings.learner.counterfactual
        rows = data.learnable if counterfactual else data.experience_state
        self._items = np.flatnonzero(data.states.timestamp_ms[rows] < cut_ms)
        self._held_out = data.states.timestamp_ms >= cut_ms
        if not len(self._items):
            raise InvalidRecordError(
                f"all that is learned from, the newest {self.settings.max_states:,} states of the span (max_states), "
                f"lies in its last {self.settings.held_out_hours} hours, which are held out.",
                remedy="Train on a longer span, set held_out_hours to 0, or raise max_states where the span has more.",
                field="held_out_hours",
            )
        self._replay = PrioritisedReplay(
            len(self._items),
            alpha=self.settings.learner.alpha,
            beta=self.settings.learner.beta,
            steps=self.settings.steps,
            seed=self.settings.seed,
        )
        return data

    @property
    def data(self) -> TrainingData:
        """What it learns from."""
        self._check_loaded()
        return self._data

    # --- learning --------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Steps that were taken."""
        return self.learner.steps

    @property
    def done(self) -> bool:
        """Whether all steps were taken."""
        return self.step >= self.settings.steps

    def train_step(self) -> dict[str, float]:
        """Draw a batch, learn from it, and give its surprises back as priorities; some 10 ms on a processor.

        Returns
        -------
        Losses and what else `agents.training.learner.Losses.figures` names, and the step.

        Raises
        ------
        InvalidRecordError
            Nothing was loaded, or the loss or its gradient is not finite.
        """
        self._check_loaded()
        learner = self.settings.learner
        drawn, weights = self._replay.sample(learner.batch)
        batch = self._data.batch(self._items[drawn], weights, counterfactual=learner.counterfactual)
        losses = self.learner.learn(batch)
        self._replay.update(drawn, losses.td_errors)
        return {"step": float(self.step), **losses.figures()}

    def evaluate(self) -> dict[str, float]:
        """What the greedy policy brings on the span that was learned from, and on the hours that were held out.

        Net of costs, basis points a decision, each episode begun flat; with the share of decisions in a position and
        the share that trade. The first says how well the learner fits, the second is a first look, not an evaluation:
        for that there is ``evaluate_agents``.
        """
        figures = {}
        for name, chosen in (("learned", ~self._held_out), ("held_out", self._held_out)):
            rows = self.data.learnable[chosen[self.data.learnable]]
            if len(rows):
                for figure, value in self._walk(rows).items():
                    figures[f"{name}_{figure}"] = value
        return figures

    def _walk(self, rows: npt.NDArray[np.int64]) -> dict[str, float]:
        """The greedy policy over some states in order, each position leading to the next."""
        data = self.data
        actions = greedy_actions(self.learner.q_values(data.inputs.take(rows)))
        volatility = volatility_of(data.states.trailing_volatility[rows])
        position = 1  # Index into (-1, 0, 1): flat.
        continues = -1
        earned, held, traded = 0.0, 0, 0
        for index, row in enumerate(rows.tolist()):
            before = position if continues == row else 1
            action = int(actions[index, before])
            position = before if action == HOLD else action
            gain = data.move[row] * (position - 1) - data.cost[row] * abs(position - before)
            earned += gain * volatility[index]
            held += position != 1
            traded += position != before
            continues = int(data.following[row])
        count = len(rows)
        return {"net_bp": float(earned / count * 1e4), "in_position": held / count, "trades": traded / count}

    # --- results ---------------------------------------------------------------------------------------------

    def checkpoint(self) -> PolicyCheckpoint:
        """The policy as it is now."""
        data, settings = self.data, self.settings
        return PolicyCheckpoint(
            layout=self.layout,
            network=settings.network,
            weights=weights_of(self.learner.online),
            learner=settings.learner,
            trained_until=self._trained_until,
            temperature=settings.temperature,
            details={
                "training": self.training_id,
                "steps": self.step,
                "seed": settings.seed,
                "agents": list(data.agents),
                "products": list(data.products),
                "states": len(data.learnable),
            },
        )

    @cached_property
    def training_id(self) -> str:
        """Id of the training: a hash of its data, layout and settings. Who has the same id would end in the same."""
        data = self.data
        # Where it computes and for how many steps it shall go on changes nothing that was learned so far; but steps
        # are what the correction of the draws rises over.
        content = {
            "settings": {**asdict(self.settings), "device": ""},
            "layout": self.layout.to_dict(),
            "trained_until": self._trained_until.isoformat(),
        }
        digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8)
        arrays = (
            *(data.states.timestamp_ms, data.states.product, data.following),
            *(data.move, data.cost, data.volatility_ratio),
            *(data.experience_state, data.action, data.position_before, data.position_after, data.reward),
            *(data.inputs.state, data.inputs.memory, data.inputs.memory_mask),
            *(data.inputs.knowledge, data.inputs.knowledge_mask, self._items),
            *self.layout.arrays().values(),
        )
        for values in arrays:
            digest.update(np.ascontiguousarray(values).tobytes())
        return f"training-{digest.hexdigest()}"

    def save(self, path: Path) -> None:
        """Write all that the next step follows from, atomically."""
        replay = self._replay_state()
        save_training_state(path, {"training": self.training_id, "learner": self.learner.state(), "replay": replay})

    def resume(self, path: Path) -> bool:
        """Go on where `save` was called, with the same data and settings loaded; False where there is no such file.

        Raises
        ------
        CheckpointError
            The file cannot be read, or belongs to another training.
        """
        if not path.exists():
            return False
        state = load_training_state(path)
        if state.get("training") != self.training_id:
            raise CheckpointError(
                f"{path} belongs to {state.get('training')}, and this is {self.training_id}: data or settings differ.",
                remedy="Remove it to train from the beginning, or load the span with the settings that wrote it.",
            )
        self.learner.load_state(state["learner"])
        replay = state["replay"]
        self._replay.load_state(
            {
                "priorities": replay["priorities"].numpy(),
                "drawn": replay["drawn"],
                "generator": json.loads(replay["generator"]),
            }
        )
        return True

    # --- internals -------------------------------------------------------------------------------------------

    def _replay_state(self) -> dict[str, object]:
        self._check_loaded()
        state = self._replay.state()
        return {
            "priorities": torch.from_numpy(state["priorities"]),
            "drawn": state["drawn"],
            "generator": json.dumps(state["generator"]),
        }

    def _memory(self) -> MemoryConnection:
        if self.mem is None:
            raise InvalidRecordError(
                "the trainer has no memory to read from.", remedy="Pass an open memory, or load_windows.", field="mem"
            )
        return self.mem

    def _check_loaded(self) -> None:
        if not hasattr(self, "_data"):
            raise InvalidRecordError(
                "nothing was loaded to learn from.", remedy="Call load(start, end) first.", field="data"
            )


def _windows(start: datetime, end: datetime) -> list[Window]:
    windows = [Window.of_span(start, start + timedelta(days=1))]
    while windows[-1].end < end:
        windows.append(Window.of_span(windows[-1].end, windows[-1].end + timedelta(days=1)))
    return windows
