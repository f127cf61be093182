"""`coinswarm doctor` on what serves a memory: embedded servers, disk, installed packages, Prefect, and who is told."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
from packaging.requirements import InvalidRequirement, Requirement

from deployments.examination import Examination, attempt, hours
from deployments.prefect_state import DeploymentState, FailedRun, PrefectState, look
from deployments.reaching import DOWN, ON_ITS_WAY, READY, UNUSED
from deployments.results import check_place
from deployments.retrying import Failure, lost_failure, prefect_command, unrecorded
from memory.commands import command
from memory.embedded.home import Home
from memory.ledger import Archive
from memory.settings import Settings
from memory.store.health import Check, CheckStatus, fail, ok, warn

LEAST_DISK_SHARE = 0.05
"""Free share of the home's disk under which servers are about to stop taking writes."""
PACKAGE = "coinswarm-memory"
CONDITIONAL_PINS = (("prefect>=3.9", "whenever>=0.11"),)
"""What an installed version needs beside what the package says: an older `whenever` breaks every cron schedule."""
CHECKED_EXTRAS = ("", "jobs", "embedded")
BROUGHT_BY_UP = ("deployments", "worker")
"""Checks of what a `coinswarm up` that is ready has seen to."""
AGAIN = "Look again in a minute; coinswarm status shows how far it is."


def check_servers(case: Examination) -> list[Check]:
    """Embedded servers and the disk that they write to."""
    reached, settings = case.reached, case.settings
    if settings.redis_url is not None and settings.database_url is not None:
        return [ok("servers", "Redis and Postgres are configured; no embedded ones are used")]
    if reached.problem is not None:
        return [fail("servers", " ".join(reached.problem.message.split()), reached.problem.remedy)]
    embedded = [server for server in reached.servers if server.pid is not None]
    if not embedded and reached.up == "starting":
        return [warn("servers", "coinswarm up is starting them.", AGAIN)]
    if not embedded:
        return [ok("servers", f"{settings.home} was not used yet; nothing was started")]
    listed = ", ".join(f"{server.name} {server.version} {server.state}" for server in embedded)
    seen = f"{listed}; {'they ran before' if reached.ran_before else 'started for this'}"
    unwell = [server for server in embedded if server.state != READY]
    if unwell:
        is_on_its_way = all(server.state in ON_ITS_WAY for server in unwell)
        remedy = f"{AGAIN} Its log: {unwell[0].log}." if is_on_its_way else f"See {unwell[0].log}."
        return [warn("servers", f"{seen}.", remedy), check_disk(settings.home)]
    return [ok("servers", seen), check_disk(settings.home)]


def check_disk(home: Path) -> Check:
    """Whether there is room under the home."""
    usage = shutil.disk_usage(home)
    seen = f"{usage.free / 2**30:,.1f} GiB of {usage.total / 2**30:,.1f} GiB free under {home}"
    if usage.free < LEAST_DISK_SHARE * usage.total:
        return warn("disk", f"{seen}.", "Free some, or move the home (COINSWARM_HOME): full disks stop all writes.")
    return ok("disk", seen)


# --- installed packages ----------------------------------------------------------------------------------------


def check_packages(_: Examination) -> list[Check]:
    """Whether the installed packages are versions that this software was tried with."""
    unmet = sorted(unmet_requirements(importlib.metadata.requires(PACKAGE) or ()))
    if unmet:
        return [
            warn(
                "packages",
                f"{'; '.join(unmet)}.",
                f"pip install --constraint constraints.txt '{PACKAGE}[jobs,embedded]' installs what works together.",
            )
        ]
    named = ", ".join(f"{name} {_installed(name)}" for name in ("prefect", "fastapi", "sqlalchemy", "redis"))
    return [ok("packages", f"{named}: as this software needs them")]


def unmet_requirements(requirements: Iterable[str]) -> set[str]:
    """Which of a package's requirements what is installed does not meet, with what is installed.

    Packages that are not installed are left out: an extra that nobody wanted is no fault.
    """
    wanted = []
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in CHECKED_EXTRAS):
            wanted.append(requirement)
    for condition, consequence in CONDITIONAL_PINS:
        if _meets(Requirement(condition)):
            wanted.append(Requirement(consequence))
    return {
        f"{requirement.name} {_installed(requirement.name)} is installed, {requirement.specifier} is needed"
        for requirement in wanted
        if _installed(requirement.name) and not _meets(requirement)
    }


def _meets(requirement: Requirement) -> bool:
    found = _installed(requirement.name)
    return bool(found) and requirement.specifier.contains(found, prereleases=True)


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


# --- Prefect, and who is told ----------------------------------------------------------------------------------


def check_prefect(case: Examination) -> list[Check]:
    """Whether what is scheduled is carried out: server, deployments, worker."""
    server, namespace = case.reached.server("prefect"), case.settings.namespace
    if case.reached.prefect_api_url is None and server.state in ON_ITS_WAY:
        return [warn("prefect", f"its server is {server.state}.", AGAIN)]
    if case.reached.prefect_api_url is None:
        if server.state in (DOWN, UNUSED) and case.live:
            return [
                warn(
                    "prefect",
                    "no server runs: nothing is carried out by itself, and agents record here.",
                    f"{command('up', namespace)}, or schedule {command('run nightly', namespace)} otherwise (cron).",
                )
            ]
        return [ok("prefect", "no server runs: flows run when they are called (coinswarm up carries out schedules)")]
    looked = look(case.reached.prefect_api_url, Home.at(case.settings.home), namespace)
    if looked.state is None:
        problem = looked.problem
        if problem is None:
            raise RuntimeError("a look at Prefect gave neither a state nor a reason")
        return while_starting(case, [fail("prefect", problem.message, problem.remedy)])
    lost = [] if case.last_runs is None else unrecorded(looked.state.failed_runs, case.last_runs)
    return while_starting(case, judge_prefect(case.settings, looked.state, lost))


def while_starting(case: Examination, checks: Sequence[Check]) -> list[Check]:
    """Checks of what `coinswarm up` brings, where it has not ended doing so: what is not there yet is no fault."""
    if case.reached.up != "starting":
        return list(checks)
    return [
        warn(check.name, f"coinswarm up is starting; by now: {check.seen}", AGAIN)
        if check.status == CheckStatus.FAIL or (check.status == CheckStatus.WARN and check.name in BROUGHT_BY_UP)
        else check
        for check in checks
    ]


def judge_prefect(settings: Settings, state: PrefectState, lost: Sequence[FailedRun] = ()) -> list[Check]:
    """Whether a server that says this of itself carries out what is scheduled.

    Parameters
    ----------
    lost
        Runs that failed before the ledger knew of them.
    """
    prefect = prefect_command(settings, state.url)
    return [
        _prefect_server(state),
        *_deployments(settings, state, prefect),
        *_worker(settings, state, prefect),
        *(_lost(lost_failure(run, settings.namespace, prefect)) for run in lost),
        _webhook(settings, state),
    ]


def _prefect_server(state: PrefectState) -> Check:
    seen = f"Prefect {state.version} at {state.url}"
    if not state.closed:
        return warn(
            "prefect",
            f"{seen}; it lets everybody in: any local user, and any web page that one of them visits.",
            "Set PREFECT_SERVER_API_AUTH_STRING there, and PREFECT_API_AUTH_STRING for its clients.",
        )
    return ok("prefect", f"{seen}, closed with a password")


def _deployments(settings: Settings, state: PrefectState, prefect: str) -> list[Check]:
    if not state.deployments:
        deploy, up = (command(words, settings.namespace) for words in ("deploy", "up"))
        return [warn("deployments", "none is registered: nothing runs by itself.", f"{deploy} (or {up})")]
    scheduled = [deployment for deployment in state.deployments if deployment.scheduled]
    paused = [deployment for deployment in scheduled if deployment.paused]
    seen = f"{len(state.deployments)} registered, {len(scheduled)} with a schedule"
    if paused:
        return [warn("deployments", f"{seen}; paused: {each.name}.", _resumed(each, prefect)) for each in paused]
    planless = [item.name for item in scheduled if item.next_run is None]
    if planless:
        return [
            warn(
                "deployments",
                f"{seen}; no next run is planned of {', '.join(planless)}.",
                "Wait a minute where the server has just started; else see its log: its scheduler does not work.",
            )
        ]
    due = min((item.next_run for item in scheduled if item.next_run is not None), default=None)
    wait = "" if due is None else f"; the next run is due in {hours(max(due - datetime.now(UTC), timedelta()))}"
    return [ok("deployments", f"{seen}{wait}")]


def _resumed(deployment: DeploymentState, prefect: str) -> str:
    """What resumes a deployment that a person paused: the command, where all of its schedules are off."""
    if not deployment.inactive:
        return "Resume it on its page in the UI."
    resume = f"{prefect} deployment schedule resume {shlex.quote(deployment.name)}"
    return " && ".join(f"{resume} {schedule}" for schedule in deployment.inactive)


def _worker(settings: Settings, state: PrefectState, prefect: str) -> list[Check]:
    pools = sorted({deployment.pool for deployment in state.deployments if deployment.pool is not None})
    if not pools:
        return []
    late = f"; {state.late_runs:,} runs are late" if state.late_runs else ""
    if not state.workers:
        return [
            fail(
                "worker",
                f"none is online in {', '.join(pools)}{late}: nothing that is scheduled runs.",
                f"{command('up', settings.namespace)}, or {prefect} worker start --pool {shlex.quote(pools[0])}",
            )
        ]
    seen = f"{len(state.workers)} online in {', '.join(pools)}{late}"
    if state.late_runs:
        return [warn("worker", f"{seen}.", "Look at the worker's log; raise its limit where it has too much to do.")]
    return [ok("worker", seen)]


def _lost(failure: Failure) -> Check:
    of = "" if failure.window is None else f" of {failure.window}"
    seen = f"{failure.flow}{of} {failure.status.lower()} at {failure.at:%Y-%m-%d %H:%M}: {failure.reason.rstrip('.')}."
    return warn("runs", seen, failure.commands[-1])


def _webhook(settings: Settings, state: PrefectState) -> Check:
    """Whether anybody is told when a night fails."""
    if settings.webhook_url is not None:
        return ok("webhook", "configured: failed nights and old knowledge are told there")
    if not state.deployments:
        return ok("webhook", "none is configured; nothing is scheduled either")
    return warn(
        "webhook",
        "none is configured: nobody is told when a night fails.",
        f"Set COINSWARM_WEBHOOK_URL (or its _FILE), then {command('deploy', settings.namespace)}",
    )


# --- the archive's place ---------------------------------------------------------------------------------------


def check_archive(case: Examination) -> list[Check]:
    """Whether the archive can be reached and, where that shows without writing, written to; and whether results can."""
    return [
        *attempt("archive", lambda: [_archive_place(case.settings)]),
        *attempt("results", lambda: _results_place(case.settings)),
    ]


def _results_place(settings: Settings) -> list[Check]:
    if settings.results_url is None:
        return []
    check_place(settings)
    return [ok("results", f"kept at {settings.results_url}")]


def _archive_place(settings: Settings) -> Check:
    archive = Archive(settings.archive_location)
    filesystem, root = fsspec.core.url_to_fs(settings.archive_location)
    if not isinstance(filesystem, fsspec.implementations.local.LocalFileSystem):
        try:
            there = filesystem.exists(root)
        except Exception as error:  # noqa: BLE001  (each store has errors of its own)
            return fail(
                "archive", f"{archive.display_url} cannot be reached: {error}.", "Check COINSWARM_ARCHIVE_URL and keys."
            )
        what = "reached" if there else "reached, and is empty"
        return ok("archive", f"{archive.display_url} can be {what}; whether it can be written to shows when it is")
    place = Path(root)
    nearest = next(folder for folder in (place, *place.parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        why = "may not be written to" if nearest.is_dir() else "is no folder"
        return fail(
            "archive",
            f"{archive.display_url} cannot be used: {nearest} {why}.",
            "Give this user the rights on it, or set COINSWARM_ARCHIVE_URL.",
        )
    return ok("archive", f"{archive.display_url}{'' if place.exists() else ', not there yet,'} can be written to")
