"""The janitor: first collects what expired, then drops it; a dry run is the same code without the last step.

Whatever is dropped, no knowledge is lost: digests, and what can be rebuilt from the ledger, stay as they are. What is
collected is looked at again as it is dropped, so that a run that was killed, or another one beside it, does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from memory import MemoryConnection
from memory.embedded.home import Home
from memory.keeping import home_files
from memory.keeping.expired import (
    ARCHIVED_FILES,
    ARCHIVES,
    ARTIFACTS,
    BENCHMARKS,
    CHECKPOINTS,
    DOCUMENTS,
    DRILLS,
    EVALUATIONS,
    GENERATIONS,
    LOGS,
    POLICIES,
    PREFECT_RUNS,
    REPORTS,
    RESULTS,
    RULES,
    RUNS,
    SUMMARIES,
    TRAINING_FIGURES,
    Expired,
)
from memory.ledger import FencingToken
from memory.ledger.retention import ExpiredRows
from memory.settings import Settings
from tasks import janitor_prefect
from tasks.drills import drop_left_by_drills, left_by_drills
from tasks.retry import retried
from tasks.workspace import Workspace, open_workspace


@retried()
def collect_expired(namespace: str, flows: Sequence[str], now: datetime, default_namespace: str) -> list[Expired]:
    """All that expired in a namespace and its home, by sort, in the order in which it is to be dropped.

    Parameters
    ----------
    flows
        Names of the flows whose runs in Prefect are this project's.
    now
        What ages count back from.
    default_namespace
        What runs of flows work on that name no namespace.

    Cost: some queries, a listing of the namespace's part of the archive, one request for 200 old runs in Prefect.

    Raises
    ------
    ArchiveUnavailableError
        The place of the archive cannot be reached.
    """
    with open_workspace(namespace) as workspace:
        collector = _Collector(workspace, now)
        found = {
            **collector.of_prefect(flows, default_namespace),
            **collector.of_the_ledger(),
            **collector.of_redis(),
            **collector.of_drills(),
            **collector.of_the_home(),
        }
    return [found[what] for what in RULES if what in found and found[what].items]


@retried(run_name="drop-{expired.what}")
def drop_expired(token: FencingToken, expired: Expired) -> int:
    """Drop what was collected; returns how much of it there still was.

    Raises
    ------
    FencedOutError
        The run was overtaken; what it drops of the ledger and of Redis it may not drop any more.
    KeepingError
        A file cannot be removed.
    """
    with open_workspace(token.namespace) as workspace:
        return _dropping(workspace, token)[expired.what](expired.items)


class _Collector:
    """Collects by the settings of a workspace, as of a time."""

    def __init__(self, workspace: Workspace, now: datetime) -> None:
        self._workspace = workspace
        self._settings = workspace.settings
        self._now = now

    def of_prefect(self, flows: Sequence[str], default_namespace: str) -> dict[str, Expired]:
        before = self._before(PREFECT_RUNS)
        runs = janitor_prefect.ended_runs(self._workspace.namespace, flows, before, default_namespace)
        return {
            PREFECT_RUNS: self._expired(PREFECT_RUNS, runs),
            ARTIFACTS: self._expired(ARTIFACTS, janitor_prefect.artifacts_of(runs)),
        }

    def of_the_ledger(self) -> dict[str, Expired]:
        retention, namespace = self._workspace.ledger.retention, self._workspace.namespace
        generations = retention.generations(namespace, self._before(GENERATIONS))
        going = generations.ids
        archives = retention.archives(namespace, self._before(ARCHIVES), going)
        rows: dict[str, ExpiredRows] = {
            RUNS: retention.runs(namespace, self._before(RUNS)),
            GENERATIONS: generations,
            SUMMARIES: retention.summaries(namespace, self._before(SUMMARIES), going),
            ARCHIVES: ExpiredRows(archives.ids),
            BENCHMARKS: retention.benchmarks(namespace, self._before(BENCHMARKS)),
            TRAINING_FIGURES: retention.trainings(namespace, self._before(TRAINING_FIGURES)),
        }
        found = {what: self._expired(what, some.ids, some.size_bytes) for what, some in rows.items()}
        return {**found, ARCHIVED_FILES: self._archived_files(archives.ids)}

    def _archived_files(self, archives: Sequence[str]) -> Expired:
        """Files of archives that go, and old ones that nothing names.

        Where the ledger knows none of the files that lie there, they are another ledger's, and stay.
        """
        archive, namespace = self._workspace.archive, self._workspace.namespace
        staying, released = self._workspace.ledger.retention.archive_paths(namespace, archives)
        sizes = archive.files(namespace)
        before = self._before(ARCHIVED_FILES)
        going = []
        for path in sizes if (staying | released) & sizes.keys() else ():
            written = None if path in staying or path in released else archive.written_at(path)
            if path in released or (written is not None and written < before):
                going.append(path)
        return self._expired(ARCHIVED_FILES, going, sum(sizes[path] for path in going))

    def of_redis(self) -> dict[str, Expired]:
        lines = [record.line for record in self._workspace.ledger.lines.list(self._workspace.namespace)]

        async def staged(mem: MemoryConnection) -> list[str]:
            return [key for line in lines for key in await mem.semantic.leftovers(line)]

        return {DOCUMENTS: self._expired(DOCUMENTS, self._workspace.with_memory(staged))}

    def of_drills(self) -> dict[str, Expired]:
        return {DRILLS: self._expired(DRILLS, left_by_drills(self._workspace))}

    def of_the_home(self) -> dict[str, Expired]:
        settings, namespace = self._settings, self._workspace.namespace
        home, policies = Home.at(settings.home), settings.policies_path / namespace
        known = {Path(path).name for path in self._workspace.ledger.retention.policy_paths(namespace)}
        results = results_folder(settings)
        files = {
            REPORTS: home_files.old_reports(settings.reports_path, namespace, self._before_s(REPORTS)),
            LOGS: home_files.old_logs(home.logs, self._before_s(LOGS)),
            CHECKPOINTS: home_files.old_checkpoints(policies, self._before_s(CHECKPOINTS)),
            POLICIES: home_files.unknown_policies(policies, known, self._before_s(POLICIES)),
            EVALUATIONS: home_files.old_evaluations(settings.home / "evaluation", self._before_s(EVALUATIONS)),
            RESULTS: [] if results is None else home_files.old_results(results, self._before_s(RESULTS)),
        }
        return {
            what: self._expired(what, [str(path) for path in paths], home_files.size_of(paths))
            for what, paths in files.items()
        }

    def _days(self, what: str) -> int | None:
        setting = RULES[what][1]
        return None if setting is None else int(getattr(self._settings, setting))

    def _before(self, what: str) -> datetime:
        return self._now - timedelta(days=self._days(what) or 0)

    def _before_s(self, what: str) -> float:
        return self._before(what).timestamp()

    def _expired(self, what: str, items: Sequence[str], size_bytes: int | None = None) -> Expired:
        return Expired.of(what, self._days(what), items, size_bytes)


def results_folder(settings: Settings) -> Path | None:
    """Folder of this project's task results; None where they lie in an object storage, which has rules of its own.

    Without a setting, that of the home's own Prefect: results in a person's Prefect profile may be anybody's.
    """
    if settings.results_url is None:
        return Home.at(settings.home).prefect_data / "storage"
    parts = urlsplit(settings.results_url)
    if parts.scheme not in ("", "file"):
        return None
    return Path(parts.path if parts.scheme else settings.results_url).expanduser().absolute()


def _dropping(workspace: Workspace, token: FencingToken) -> Mapping[str, Callable[[Sequence[str]], int]]:
    """What drops each sort of things."""
    retention, settings = workspace.ledger.retention, workspace.settings
    home = Home.at(settings.home)
    roots = {
        REPORTS: settings.reports_path,
        LOGS: home.logs,
        CHECKPOINTS: settings.policies_path,
        POLICIES: settings.policies_path,
        EVALUATIONS: settings.home / "evaluation",
        RESULTS: results_folder(settings),
    }
    return {
        ARTIFACTS: janitor_prefect.drop_artifacts,
        PREFECT_RUNS: janitor_prefect.drop_runs,
        RUNS: partial(retention.drop_runs, token),
        GENERATIONS: partial(retention.drop_generations, token),
        SUMMARIES: partial(retention.drop_summaries, token),
        ARCHIVES: partial(retention.drop_archives, token),
        ARCHIVED_FILES: partial(_drop_archived, workspace),
        DOCUMENTS: partial(_drop_documents, workspace, token),
        DRILLS: partial(drop_left_by_drills, workspace, token.run_id),
        BENCHMARKS: partial(retention.drop_benchmarks, token),
        TRAINING_FIGURES: partial(retention.drop_trainings, token),
        **{what: partial(_drop_files, root) for what, root in roots.items() if root is not None},
    }


def _drop_archived(workspace: Workspace, paths: Sequence[str]) -> int:
    """Remove archived files that no archive names now."""
    named = workspace.ledger.windows.archive_paths(workspace.namespace)
    return sum(workspace.archive.remove(path) for path in paths if path not in named)


def _drop_documents(workspace: Workspace, token: FencingToken, keys: Sequence[str]) -> int:
    """Remove staged documents: all of each line, since nobody else publishes while the namespace is held."""
    lines = [record.line for record in workspace.ledger.lines.list(workspace.namespace)]

    async def remove(mem: MemoryConnection) -> int:
        return sum([await mem.semantic.remove_leftovers(line, token=token.value) for line in lines])

    return workspace.with_memory(remove) if keys else 0


def _drop_files(root: Path, paths: Sequence[str]) -> int:
    return home_files.remove([Path(path) for path in paths], root)
