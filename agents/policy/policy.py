"""The memory-augmented policy: asks the memory about a state, as of the state's own time, and chooses an action."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import torch

from agents.policy.checkpoint import PolicyCheckpoint
from agents.policy.network import action_probabilities, as_tensors, greedy_actions
from agents.policy.retrieval import Retrieved, inputs_of, retrieve
from agents.replay import State
from agents.tracing import check_finite
from memory import MemoryConnection
from memory.asof import check_time
from memory.decisions import DecisionTrace, KnowledgeRead, MemoryRead
from memory.errors import InvalidRecordError
from memory.records import REGIMES, Action, experience_id
from memory.validation import validate_choice, validate_identifier, validate_number

POLICY_NAME = "memory-augmented-dqn"
MODES = ("sample", "greedy")
PROBABILITY_DECIMALS = 6
"""Probabilities are rounded to this: computed in float64, they are then the same in any batch and on any machine."""


class MemoryAugmentedPolicy:
    """Chooses actions by action values that rest on the state, retrieved memories and knowledge.

    The probability of an action is the softmax of the action values (in trailing volatilities) at the temperature.
    Where nothing was retrieved, the network's learned embedding of that stands for it: an empty memory, or an agent
    that nobody has heard of, is no error.

    Parameters
    ----------
    mem
        An open memory; its questions must be asked in the policy's encoder.
    checkpoint
        The trained policy.
    mode
        ``sample`` draws the action, ``greedy`` takes the best.
    seed
        Of the draws. Each draw depends on the seed and the decision's id alone: not on how many were drawn before.
    temperature
        Trailing volatilities; the checkpoint's where None.
    same_product, same_regime
        Only memories of the state's product, of its regime.

    Attributes
    ----------
    name
        What traces call it.
    last_trace, last_traces
        What the last decision, or the last batch of them, rested on.
    """

    name = POLICY_NAME

    def __init__(
        self,
        mem: MemoryConnection,
        checkpoint: PolicyCheckpoint,
        *,
        mode: str = "sample",
        seed: int = 0,
        temperature: float | None = None,
        same_product: bool = False,
        same_regime: bool = False,
    ) -> None:
        self.mem = mem
        self.checkpoint = checkpoint
        self.mode = validate_choice(mode, "mode", MODES)
        self.seed = seed
        chosen = checkpoint.temperature if temperature is None else temperature
        self.temperature = validate_number(chosen, "temperature", 1e-6, 1e6)
        self.same_product, self.same_regime = same_product, same_regime
        self.last_traces: tuple[DecisionTrace, ...] = ()
        # Double precision leaves the order of sums no say in the first decimals.
        self._network = checkpoint.build().to(torch.float64).eval()
        self._encoder_checked = False

    @property
    def last_trace(self) -> DecisionTrace | None:
        """What the last decision rested on; None before the first."""
        return self.last_traces[-1] if self.last_traces else None

    def parameters(self) -> dict[str, Any]:
        """All that its decisions depend on beside states and memory, JSON-ready: part of a replay's run id."""
        return {
            "policy": self.name,
            "checkpoint": self.checkpoint.id_,
            "memory_use": self.checkpoint.learner.memory_use,
            "mode": self.mode,
            "seed": self.seed,
            "temperature": self.temperature,
            "same_product": self.same_product,
            "same_regime": self.same_regime,
        }

    async def select_action(
        self,
        state: State,
        agent_id: str,
        product_id: str | None = None,
        regime: str | None = None,
        *,
        position: float = 0.0,
        as_of: datetime | None = None,
        source: str = "live",
        run_id: str = "live",
        step: int = 0,
    ) -> tuple[Action, float]:
        """The action in a state and the probability that the policy gives it. Some 2 ms.

        Parameters
        ----------
        state
            The state.
        agent_id
            Whose decision it is: own memories are this agent's, shared ones are those of all others.
        product_id, regime
            As the agent sees them; the state's own where None.
        position
            Exposure before the action, -1 to 1.
        as_of
            What is known to the agent; the state's timestamp where None.
        source, run_id, step
            Of the experience that the decision becomes; the trace's id follows from them.

        Raises
        ------
        InvalidRecordError
            A feature or the vector is not finite, or an argument cannot be; it is named.
        EncoderError
            The memory answers in another encoder than the policy's, or the state lacks a feature.
        CheckpointError
            The policy was trained on data later than the state, or than `as_of`.
        InvalidQueryError, StoreUnavailableError
            As the questions to the memory.
        """
        decided = await self.select_actions(
            [state],
            agent_id,
            product_ids=None if product_id is None else [product_id],
            regimes=None if regime is None else [regime],
            positions=[position],
            as_of=as_of,
            source=source,
            run_id=run_id,
            steps=[step],
        )
        return decided[0]

    async def select_actions(
        self,
        states: Sequence[State],
        agent_id: str,
        *,
        product_ids: Sequence[str] | None = None,
        regimes: Sequence[str] | None = None,
        positions: Sequence[float] | None = None,
        as_of: datetime | None = None,
        source: str = "live",
        run_id: str = "live",
        steps: Sequence[int] | None = None,
    ) -> list[tuple[Action, float]]:
        """`select_action` for several states: the questions go out together, and the network runs once.

        Gives what one call a state would give.
        """
        if not states:
            return []
        agent_id = validate_identifier(agent_id, "agent_id")
        products = list(product_ids) if product_ids is not None else [state.product_id for state in states]
        named = list(regimes) if regimes is not None else [state.regime for state in states]
        held = [0.0] * len(states) if positions is None else list(positions)
        numbers = [0] * len(states) if steps is None else list(steps)
        for regime, position in zip(named, held, strict=True):
            validate_choice(regime, "regime", REGIMES)
            validate_number(position, "position", -1.0, 1.0)
        times = [state.timestamp if as_of is None else check_time(as_of, "as_of") for state in states]
        for state, time in zip(states, times, strict=True):
            check_finite(state)
            self.checkpoint.check_as_of(min(time, state.timestamp))
        retrieved = await self._retrieve(states, agent_id, products, named, times)
        inputs = inputs_of(self.checkpoint.layout, states, named, products, held, retrieved, times)
        if not self.checkpoint.learner.use.retrieves:
            inputs = inputs.without_memory(knowledge=False)
        with torch.no_grad():
            values = self._network(as_tensors(inputs, dtype=torch.float64)).numpy()
        probabilities = action_probabilities(values, self.temperature, decimals=PROBABILITY_DECIMALS)
        best = greedy_actions(np.round(values, PROBABILITY_DECIMALS))
        traces = []
        for row, state in enumerate(states):
            identity = (source, run_id, agent_id, products[row], state.timestamp, numbers[row])
            draw = None if self.mode == "greedy" else drawn(self.seed, experience_id(*identity))
            index = int(best[row]) if draw is None else chosen_by(probabilities[row], draw)
            chosen = draw, tuple(probabilities[row].tolist()), index
            traces.append(self._trace(state, identity, times[row], named[row], held[row], retrieved[row], chosen))
        self.last_traces = tuple(traces)
        return [(trace.action, trace.confidence) for trace in traces]

    async def decide_again(self, trace: DecisionTrace) -> DecisionTrace:
        """Take a decision again from its trace: the same questions as of the same time, the same draw.

        The new trace equals the old one as long as the memory still holds what was read.

        Raises
        ------
        InvalidRecordError
            The trace is of another policy or checkpoint.
        """
        if trace.policy != POLICY_NAME or trace.checkpoint != self.checkpoint.id_:
            raise InvalidRecordError(
                f"the decision was taken by {trace.policy} with checkpoint {trace.checkpoint}; this is {POLICY_NAME} "
                f"with {self.checkpoint.id_}.",
                remedy="Load the checkpoint that the trace names.",
                field="checkpoint",
            )
        parameters = trace.policy_parameters
        again = MemoryAugmentedPolicy(
            self.mem,
            self.checkpoint,
            mode=parameters["mode"],
            seed=self.seed if trace.seed is None else trace.seed,
            temperature=parameters["temperature"],
            same_product=parameters["same_product"],
            same_regime=parameters["same_regime"],
        )
        state = State(
            product_id=trace.product_id,
            timestamp=trace.timestamp,
            features=dict(trace.features),
            vector=trace.state_vector,
            price=parameters["price"],
            spread=parameters["spread"],
            regime=trace.regime,
            regime_confidence=trace.regime_confidence,
        )
        await again.select_action(
            state,
            trace.agent_id,
            position=trace.position_before,
            as_of=trace.as_of,
            source=trace.source,
            run_id=trace.run_id,
            step=trace.step,
        )
        return again.last_traces[0]

    # --- internals -------------------------------------------------------------------------------------------

    async def _retrieve(
        self,
        states: Sequence[State],
        agent_id: str,
        products: Sequence[str],
        regimes: Sequence[str],
        times: Sequence[datetime],
    ) -> Sequence[Retrieved]:
        if not self._encoder_checked:
            # States of another encoder would fit the network, too: what it says of them would mean nothing.
            encoder_id = self.mem.encoder_id or await self.mem.encoders.current()
            if encoder_id is None:  # Nothing was ever recorded: there is nothing to ask.
                return [Retrieved()] * len(states)
            self.checkpoint.layout.check_encoder(encoder_id)
            self._encoder_checked = True
        if not self.checkpoint.learner.use.retrieves:
            return [Retrieved()] * len(states)
        questions = (
            retrieve(
                self.mem,
                self.checkpoint.layout,
                state,
                agent_id=agent_id,
                product_id=product_id,
                regime=regime,
                as_of=as_of,
                same_product=self.same_product,
                same_regime=self.same_regime,
            )
            for state, product_id, regime, as_of in zip(states, products, regimes, times, strict=True)
        )
        return await asyncio.gather(*questions)

    def _parameters(self, state: State) -> Mapping[str, Any]:
        return {
            "mode": self.mode,
            "temperature": self.temperature,
            "same_product": self.same_product,
            "same_regime": self.same_regime,
            "memory_use": self.checkpoint.learner.memory_use,
            "price": state.price,
            "spread": state.spread,
        }

    def _trace(
        self,
        state: State,
        identity: tuple[str, str, str, str, datetime, int],
        as_of: datetime,
        regime: str,
        position: float,
        found: Retrieved,
        chosen: tuple[float | None, tuple[float, ...], int],
    ) -> DecisionTrace:
        source, run_id, agent_id, product_id, timestamp, step = identity
        draw, probabilities, index = chosen
        pattern = found.pattern
        known = found.regime if pattern is None else pattern.memory
        return DecisionTrace(
            agent_id=agent_id,
            product_id=product_id,
            timestamp=timestamp,
            source=source,
            run_id=run_id,
            step=step,
            decision_id=experience_id(*identity),
            as_of=as_of,
            encoder_id=self.checkpoint.layout.encoder_id,
            line=None if known is None else known.line,
            features=state.features,
            state_vector=state.vector,
            regime=regime,
            regime_confidence=state.regime_confidence,
            position_before=position,
            own=tuple(MemoryRead.of(hit.memory, hit.distance) for hit in found.own),
            shared=tuple(MemoryRead.of(hit.memory, hit.distance) for hit in found.shared),
            patterns=() if pattern is None else (KnowledgeRead.of(pattern.memory, pattern.distance),),
            knowledge=() if found.regime is None else (KnowledgeRead.of(found.regime),),
            policy=POLICY_NAME,
            policy_parameters=self._parameters(state),
            checkpoint=self.checkpoint.id_,
            seed=None if draw is None else self.seed,
            draw=draw,
            probabilities=probabilities,
            action=Action.from_index(index),
            confidence=probabilities[index],
        )


def drawn(seed: int, decision_id: str) -> float:
    """The uniform number in [0, 1) of a decision: a hash of seed and id, so that the order of decisions is nothing."""
    digest = hashlib.blake2b(f"{seed}\x1f{decision_id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / float(1 << 53)


def chosen_by(probabilities: np.ndarray[Any, np.dtype[np.float64]], draw: float) -> int:
    """The action into whose share of [0, 1) a draw falls."""
    index = int(np.searchsorted(np.cumsum(probabilities), draw, side="right"))
    return min(index, int(np.flatnonzero(probabilities)[-1]))
