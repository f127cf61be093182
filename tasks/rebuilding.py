"""Rebuilding semantic memory in Redis from the ledger: encoders, all versions of all lines, and which line is read.

Access counters and experiences are left alone. Everything can be run again, and takes up where it was killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from memory import MemoryConnection
from memory.errors import LineError, StoreUnavailableError
from memory.ledger import KeepAlive
from memory.store.semantic import PublishReport
from tasks.differences import Findings
from tasks.progress import announce, begin
from tasks.projected import ALL_KINDS, ProjectedKnowledge, of_namespace, project
from tasks.publishing import register_encoders
from tasks.retry import retried
from tasks.runs import LedgerRun
from tasks.verification import compare
from tasks.workspace import Workspace, open_workspace


@dataclass(frozen=True, slots=True)
class Rebuilding:
    """What is rebuilt, where, and by which right: small plain values.

    Attributes
    ----------
    source, target
        Namespace whose ledger is read, and the one whose Redis is written; mostly the same.
    token
        Value of the right to write to the target.
    as_of
        Time as of which it is rebuilt; None for now.
    lines
        Knowledge lines to rebuild; all where None.
    """

    source: str
    target: str
    token: int
    as_of: datetime | None
    lines: tuple[str, ...] | None

    @property
    def elsewhere(self) -> bool:
        """Whether it goes into another namespace than it comes from."""
        return self.target != self.source

    def knowledge(self, workspace: Workspace) -> ProjectedKnowledge:
        """What Redis is to hold in the end."""
        into = self.target if self.elsewhere else None
        return project(workspace, as_of=self.as_of, into=into, names=self.lines)

    def held(self, workspace: Workspace) -> Workspace:
        """The target, on the same servers."""
        return of_namespace(workspace, self.target) if self.elsewhere else workspace


def advance_fence(source: str, target: str) -> None:
    """Let the ledger grant tokens that Redis does not refuse, whatever ran before either was restored.

    To be called before the right to write is acquired.
    """
    with open_workspace(source) as workspace:
        for namespace in sorted({source, target}):
            highest = of_namespace(workspace, namespace).with_memory(lambda mem: mem.fence.highest())
            workspace.ledger.fence.advance_past(highest)


@contextmanager
def right_to(run: LedgerRun, target: str, flow: str) -> Iterator[int]:
    """The right to write to a namespace: the run's own, or, for another one, one that is held meanwhile.

    Raises
    ------
    LineError
        The other namespace learns by itself, or holds experiences.
    NamespaceBusyError
        Another run holds it.
    """
    if target == run.workspace.namespace:
        yield run.fencing_token.value
        return
    workspace = of_namespace(run.workspace, target)
    ledger, settings = workspace.ledger, workspace.settings
    token = ledger.fence.acquire(target, run.run_id, flow=flow, lease_s=settings.lease_s, wait_s=settings.lock_wait_s)
    try:
        _check_free(workspace)
        workspace.raise_fence(token)
        with KeepAlive(ledger.runs, ledger.fence, run.run_id, settings.lease_s, token):
            yield token.value
    finally:
        ledger.fence.release(token)


def _check_free(workspace: Workspace) -> None:
    remedy = "Name a namespace that nothing was recorded in; what was rebuilt there before may stay."
    if workspace.ledger.lines.list(workspace.namespace):
        raise LineError(f"namespace {workspace.namespace!r} has knowledge lines of its own.", remedy=remedy)
    experiences = workspace.with_memory(lambda mem: mem.episodic.count())
    if experiences:
        raise LineError(f"namespace {workspace.namespace!r} holds {experiences:,} experiences.", remedy=remedy)


@retried()
def restore_encoders(rebuilding: Rebuilding) -> dict[str, int]:
    """Register the encoders of what is rebuilt, and make the leading line's the current one where there is none."""
    with open_workspace(rebuilding.source) as workspace:
        knowledge = rebuilding.knowledge(workspace)
        if not knowledge.lines:
            raise LineError(
                f"the ledger holds no knowledge of namespace {rebuilding.source!r}"
                f"{'' if rebuilding.as_of is None else f' as of {rebuilding.as_of.isoformat()}'}.",
                remedy="Check the name and the time; coinswarm status lists lines and windows.",
            )
        unkept = sorted({line.encoder_id for line in knowledge.lines} - knowledge.encoders.keys())
        for encoder_id in unkept:
            announce(f"the ledger does not keep encoder {encoder_id}: record or consolidate once to register it again")

        restore = partial(register_encoders, knowledge.encoders.values(), knowledge.current_encoder)
        rebuilding.held(workspace).with_memory(restore)
        return {"lines": len(knowledge.lines), "encoders": len(knowledge.encoders)}


@retried()
def publish_lines(rebuilding: Rebuilding) -> dict[str, int]:
    """Publish everything that the ledger holds of each line, in one step a line; what else Redis had of it goes."""
    counts = {"current": 0, "added": 0, "closed": 0, "removed": 0, "unchanged": 0}
    with open_workspace(rebuilding.source) as workspace:
        knowledge = rebuilding.knowledge(workspace)
        for line in knowledge.lines:
            begin(f"publishing {line.name}")

            async def send(mem: MemoryConnection, line: Any = line) -> PublishReport:
                report = await mem.semantic.publish_versions(
                    line.versions(workspace.ledger),
                    line=line.name,
                    kinds=ALL_KINDS,
                    token=rebuilding.token,
                    since=None,
                    horizon=line.horizon,
                    aliases=line.aliases,
                    windows=line.published,
                    adopt=False,
                )
                await mem.link.on_disk()
                if await mem.semantic.stamp(line.name) != report.stamp:
                    raise StoreUnavailableError(
                        f"Redis lost what was just published of {line.name}.",
                        remedy="It was restarted in this moment: rebuild again.",
                    )
                return report

            report = rebuilding.held(workspace).with_memory(send)
            for name in counts:
                counts[name] += getattr(report, name)
    return counts


@retried()
def settle_lines(rebuilding: Rebuilding) -> dict[str, int]:
    """Let the right line be read for each encoder, as of each time, and drop lines that the ledger does not know.

    What is right already is not touched: agents may read meanwhile.
    """
    with open_workspace(rebuilding.source) as workspace:
        knowledge = rebuilding.knowledge(workspace)

        async def settle(mem: MemoryConnection) -> dict[str, int]:
            settled = 0
            for encoder_id, expected in knowledge.successions.items():
                found = tuple(await mem.semantic.succession(encoder_id))
                if (found == expected or (not found and len(expected) == 1)) and (
                    await mem.semantic.current_line(encoder_id) == expected[-1][1]
                ):
                    continue
                settled += 1
                await mem.semantic.set_current_line(expected[0][1], encoder_id, token=rebuilding.token)
                for since, line in expected[1:]:
                    if since is not None:
                        await mem.semantic.take_over(
                            line, encoder_id, current_from=since, token=rebuilding.token, make_current=False
                        )
            known = {line.name for line in knowledge.lines}
            unknown = [line for line in await mem.semantic.lines() if line not in known]
            for line in unknown:
                await mem.semantic.drop_line(line, rebuilding.token)
            return {"successions": settled, "dropped": len(unknown)}

        return rebuilding.held(workspace).with_memory(settle)


@retried()
def compare_rebuilt(rebuilding: Rebuilding, limit: int) -> dict[str, Any]:
    """Read everything again, and compare it with the ledger."""
    findings = Findings(limit)
    with open_workspace(rebuilding.source) as workspace:
        held = rebuilding.held(workspace)
        compare(
            workspace,
            rebuilding.knowledge(workspace),
            findings,
            held=held,
            whole=rebuilding.lines is None or rebuilding.elsewhere,
            every_field=True,
        )
        return {**findings.as_dict(), "redis_digest": held.with_memory(lambda mem: mem.semantic.digest())}
