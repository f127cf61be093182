"""`coinswarm explain DECISION`: from a decision to what it rested on, and to the nights that made that.

With their runs and settings; and the decision is taken again, from the same questions with the same random number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.baselines import Agent, baseline_agents
from agents.leakage import differences
from agents.replay import State
from memory import MemoryConnection
from memory.decisions import DecisionTrace, KnowledgeRead, MemoryRead
from memory.errors import CoinswarmError, MissingExtraError, PastExpiredError
from memory.ledger import Ledger
from memory.records import EpisodicMemory, SemanticType
from memory.retrieval.hits import Hit, PatternHit
from memory.window import Window

if TYPE_CHECKING:
    from tasks.workspace import Workspace

EQUAL, DIFFERENT, NOT_REPLAYED = "equal", "different", "not replayed"
ID_LENGTH = 32
UNREAD_PATTERNS = 3
"""Patterns that are told of a decision that read nothing."""
POLICY_NAME = "memory-augmented-dqn"
"""As `agents.policy.policy.POLICY_NAME`, which cannot be imported without torch."""


def is_decision_id(text: str) -> bool:
    """Whether a text looks like the id of a decision."""
    return len(text) == ID_LENGTH and set(text) <= set("0123456789abcdef")


def explain_decision(workspace: Workspace, decision_id: str) -> dict[str, Any] | None:
    """All that a decision rested on, and whether it comes out the same when it is taken again; None for no such trace.

    Of a decision that read no memory, `unread` is what was known as of it: the patterns nearest to its state.

    Within `uncounted`, asking again does not count as an access of the patterns. Cost: some 10 ms, and a scan of the
    keys for each experience that it read (0.5 s a million).
    """

    async def look_up(
        mem: MemoryConnection,
    ) -> tuple[DecisionTrace, dict[str, Any], dict[str, EpisodicMemory], list[PatternHit]] | None:
        trace = await mem.decisions.get(decision_id)
        if trace is None:
            return None
        read = {item.memory_id: await mem.episodic.get(item.memory_id, as_of=trace.as_of) for item in trace.own}
        for hit in await _shared_again(mem, trace):
            read[hit.memory.memory_id] = hit.memory
        known = {memory_id: found for memory_id, found in read.items() if found is not None}
        return trace, {"replay": await take_again(workspace, mem, trace)}, known, await _unread(mem, trace)

    trace = workspace.with_memory(lambda mem: mem.decisions.get(decision_id))
    if trace is None:
        return None
    found = workspace.with_memory(look_up, encoder_id=trace.encoder_id)
    if found is None:
        return None
    trace, replayed, experiences, unread = found
    nights = _nights(workspace.ledger, trace)
    run_ids = dict.fromkeys(night["run"] for night in nights if night["run"])
    return {
        "asked": decision_id,
        "decision": _decision(trace),
        "own": [_read(item, experiences) for item in trace.own],
        "shared": [_read(item, experiences) for item in trace.shared],
        "knowledge": [_version(workspace.ledger, trace.line, item) for item in (*trace.patterns, *trace.knowledge)],
        "unread": [
            {
                **_version(workspace.ledger, hit.memory.line, KnowledgeRead.of(hit.memory, hit.distance)),
                "description": hit.memory.description,
            }
            for hit in unread
        ],
        "nights": nights,
        "runs": [run for run_id in run_ids if (run := _run(workspace.ledger, run_id)) is not None],
        "policy": _policy(workspace, trace),
        **replayed,
    }


# --- taking it again -------------------------------------------------------------------------------------------


async def take_again(workspace: Workspace, mem: MemoryConnection, trace: DecisionTrace) -> dict[str, Any]:
    """Ask and decide again as of then, and compare; what cannot be decided here is said with the reason."""
    named = {agent.agent_id: agent for agent in baseline_agents()}
    strategy = trace.policy_parameters.get("strategy")
    if trace.policy == POLICY_NAME:
        return await _policy_again(workspace, mem, trace)
    if strategy in named and {"price", "spread"} <= trace.policy_parameters.keys():
        return _baseline_again(named[str(strategy)], trace)
    same = await _reads_again(mem, trace)
    return {
        "status": NOT_REPLAYED if not same else DIFFERENT,
        "how": f"strategy {trace.policy} is a function of its agent's own program; what it read was asked again",
        "values": len(trace.own) + len(trace.shared),
        "differences": same,
    }


async def _policy_again(workspace: Workspace, mem: MemoryConnection, trace: DecisionTrace) -> dict[str, Any]:
    how = f"{trace.policy} with checkpoint {trace.checkpoint}, draw {trace.draw}"
    try:
        from agents.policy.extra import require_policy_extra

        require_policy_extra()
        from agents.policy.checkpoint import PolicyCheckpoint
        from agents.policy.policy import MemoryAugmentedPolicy

        path = _checkpoint_path(workspace, trace)
        again = await MemoryAugmentedPolicy(mem, PolicyCheckpoint.load(path)).decide_again(trace)
    except (MissingExtraError, FileNotFoundError) as error:
        return {"status": NOT_REPLAYED, "how": f"{how}: {error}", "values": 0, "differences": []}
    except CoinswarmError as error:
        return {"status": DIFFERENT, "how": how, "values": 0, "differences": [str(error)]}
    # Messages are heard by the agent, and no part of what the policy decides by.
    return _comparison(how, trace, replace(again, messages=trace.messages))


def _checkpoint_path(workspace: Workspace, trace: DecisionTrace) -> Path:
    """Where the checkpoint lies: in the home, or where the ledger says; FileNotFoundError where it is in neither."""
    recorded = workspace.ledger.training.policies(workspace.namespace, limit=1000)
    places = [workspace.settings.policies_path / workspace.namespace / f"{trace.checkpoint}.npz"]
    places += [Path(policy.path) for policy in recorded if policy.checkpoint_id == trace.checkpoint]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"the checkpoint is not in {places[0].parent}; put its file there to replay")


def _baseline_again(agent: Agent, trace: DecisionTrace) -> dict[str, Any]:
    """A baseline agent is a pure function of the state and its position."""
    parameters = trace.policy_parameters
    kept = {field.name: parameters[field.name] for field in fields(agent) if field.name in parameters}  # type: ignore[arg-type]
    same_agent: Agent = replace(agent, **kept)  # type: ignore[type-var]
    decision = same_agent.decide(state_of(trace), trace.position_before)
    how = f"baseline {trace.policy}, a function of state and position"
    again = replace(trace, action=decision.action, confidence=decision.confidence)
    version = same_agent.parameters().get("version")
    result = _comparison(how, trace, again)
    if parameters.get("version") != version:
        result["differences"].append(
            f"the decision was taken by version {parameters.get('version')}; this is {version}"
        )
        result["status"] = DIFFERENT
    return result


async def _reads_again(mem: MemoryConnection, trace: DecisionTrace) -> list[str]:
    """What an agent read for its strategy, asked again; differences in words."""
    found = {
        "own": await mem.retrieval.retrieve_similar_experiences(
            trace.state_vector,
            agent_id=trace.agent_id,
            product_id=trace.product_id,
            as_of=trace.as_of,
            top_k=max(len(trace.own), 1),
        )
        if trace.own
        else [],
        "shared": await _shared_again(mem, trace),
    }
    said = []
    for name, reads in (("own", trace.own), ("shared", trace.shared)):
        if reads:
            again = tuple(MemoryRead.of(hit.memory, hit.distance) for hit in found[name])
            said += [text for text in [differences({name: reads}, {name: again})[2]] if text]
    return said


async def _shared_again(mem: MemoryConnection, trace: DecisionTrace) -> list[Hit]:
    """The shared experiences of an agent's own question; of a policy's, as many as it read lie among the nearest."""
    if not trace.shared:
        return []
    hits = await mem.shared.retrieve_shared_experiences(
        trace.state_vector,
        product_id=None if trace.policy == POLICY_NAME else trace.product_id,
        as_of=trace.as_of,
        exclude_agent_id=trace.agent_id,
        top_k=mem.settings.max_top_k if trace.policy == POLICY_NAME else len(trace.shared),
    )
    wanted = {item.memory_id for item in trace.shared}
    return [hit for hit in hits if hit.memory.memory_id in wanted] if trace.policy == POLICY_NAME else hits


def _comparison(how: str, trace: DecisionTrace, again: DecisionTrace) -> dict[str, Any]:
    names = [field.name for field in fields(trace)]
    said, values = [], 0
    for name in names:
        count, _, text = differences({name: getattr(trace, name)}, {name: getattr(again, name)})
        values += count
        said += [text.replace("after the change", "taken again")] if text else []
    return {"status": DIFFERENT if said else EQUAL, "how": how, "values": values, "differences": said}


def state_of(trace: DecisionTrace) -> State:
    """The state that was decided on."""
    return State(
        product_id=trace.product_id,
        timestamp=trace.timestamp,
        features=dict(trace.features),
        vector=trace.state_vector,
        price=trace.policy_parameters["price"],
        spread=trace.policy_parameters["spread"],
        regime=trace.regime,
        regime_confidence=trace.regime_confidence,
    )


# --- what it rested on -----------------------------------------------------------------------------------------


def _decision(trace: DecisionTrace) -> dict[str, Any]:
    left_out = ("state_vector", "own", "shared", "patterns", "knowledge", "action")
    plain = {field.name: getattr(trace, field.name) for field in fields(trace) if field.name not in left_out}
    times = {name: _time(value) for name, value in plain.items() if isinstance(value, datetime)}
    action = {"side": trace.action.side.value, "size": trace.action.size}
    lists = {"features": dict(trace.features), "messages": list(trace.messages), "action": action}
    return {**plain, **times, **lists, "probabilities": list(trace.probabilities)}


def _read(item: MemoryRead, experiences: Mapping[str, EpisodicMemory]) -> dict[str, Any]:
    found = experiences.get(item.memory_id)
    read = {"memory_id": item.memory_id, "distance": item.distance, "known_at": _time(item.known_at)}
    if found is None:
        return {**read, "held": False}
    return {
        **read,
        "held": True,
        "agent_id": found.agent_id,
        "product_id": found.product_id,
        "timestamp": _time(found.timestamp),
        "regime": found.regime,
        "side": found.action.side.value,
        "size": found.action.size,
        "reward": found.reward,
        "source": found.source,
        "run_id": found.run_id,
    }


async def _unread(mem: MemoryConnection, trace: DecisionTrace) -> list[PatternHit]:
    """The patterns nearest to the state of a decision that read nothing, as of it; none where that time has expired."""
    if trace.own or trace.shared or trace.patterns or trace.knowledge:
        return []
    try:
        return await mem.retrieval.retrieve_patterns(trace.state_vector, as_of=trace.as_of, top_k=UNREAD_PATTERNS)
    except PastExpiredError:
        return []


def _windows_of(ledger: Ledger, line: str, item: KnowledgeRead) -> list[Window]:
    """Windows after which a memory changed, up to the version that was read."""
    from tasks.projections import ROWS

    history = ledger.projections.history(ROWS[SemanticType(item.kind)], line, item.memory_id)
    return [window for window, row in history if row is not None and window.end <= item.valid_from]


def _version(ledger: Ledger, line: str | None, item: KnowledgeRead) -> dict[str, Any]:
    windows = [] if line is None else _windows_of(ledger, line, item)
    return {
        "memory_id": item.memory_id,
        "kind": item.kind,
        "valid_from": _time(item.valid_from),
        "distance": item.distance,
        "line": line,
        "nights": [window.name for window in windows],
    }


def _nights(ledger: Ledger, trace: DecisionTrace) -> list[dict[str, Any]]:
    """The nights that made the versions which were read, with the generation and run of each."""
    if trace.line is None:
        return []
    read = (*trace.patterns, *trace.knowledge)
    windows = sorted({window for item in read for window in _windows_of(ledger, trace.line, item)})
    nights = []
    for window in windows:
        generations = ledger.windows.generations(trace.line, window)
        newest = generations[-1] if generations else None
        nights.append(
            {
                "window": window.name,
                "generation": None if newest is None else newest.number,
                "generations": len(generations),
                "settings_hash": None if newest is None else newest.settings_hash,
                "manifest_digest": None if newest is None else newest.manifest_digest,
                "run": None if newest is None else newest.run_id,
            }
        )
    return nights


def _run(ledger: Ledger, run_id: str) -> dict[str, Any] | None:
    run = ledger.runs.get(run_id)
    if run is None:
        return None
    return {
        "run_id": run.run_id,
        "flow": run.flow,
        "window": None if run.window is None else run.window.name,
        "status": run.status,
        "parameters": run.parameters,
        "started_at": _time(run.started_at),
    }


def _policy(workspace: Workspace, trace: DecisionTrace) -> dict[str, Any] | None:
    """The training that a checkpoint came from."""
    if trace.checkpoint is None:
        return None
    for policy in workspace.ledger.training.policies(workspace.namespace, limit=1000):
        if policy.checkpoint_id == trace.checkpoint:
            return {
                "checkpoint": policy.checkpoint_id,
                "trained_until": _time(policy.trained_until),
                "path": policy.path,
                "details": dict(policy.details),
                "run": _run(workspace.ledger, policy.run_id),
            }
    return {"checkpoint": trace.checkpoint, "trained_until": None, "path": None, "details": {}, "run": None}


def _time(value: datetime) -> str:
    return value.isoformat()
