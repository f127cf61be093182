"""The declaration of all deployments."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from deployments import registry
from deployments.registry import DRAIN, UnknownDeploymentError, deployment, deployments
from flows import FLOWS, parameters_of
from memory.settings import Settings

ALL = deployments("mine")


def test_every_flow_has_a_deployment_of_its_own() -> None:
    assert [each.flow for each in ALL if not each.purpose] == list(FLOWS)


def test_plans_name_flows_that_exist() -> None:
    assert set(registry._PLANS) <= set(FLOWS)


def test_names_tell_flow_namespace_and_purpose_apart() -> None:
    assert len({each.full_name for each in ALL}) == len(ALL)
    assert deployment("mine", "nightly").full_name == "nightly/mine"
    assert deployment("mine", "record_experiences", DRAIN).full_name == "record_experiences/mine.drain"


def test_what_runs_by_itself_needs_nothing_but_its_parameters() -> None:
    for each in ALL:
        if each.cron is not None:
            parameters_of(each.flow).model_validate(each.parameters["parameters"])


def test_what_needs_an_extra_that_is_left_out_is_there_but_does_not_run_by_itself() -> None:
    unscheduled = registry.unscheduled({registry.POLICY})
    assert unscheduled == ["train_agents", "evaluate_agents"]
    found = {each.full_name: each for each in deployments("mine", left_out={registry.POLICY})}
    assert set(found) == {each.full_name for each in ALL}
    for each in ALL:
        assert found[each.full_name].cron == (None if each.flow in unscheduled else each.cron)


@pytest.mark.parametrize(
    ("setting", "installed", "in_containers", "scheduled"),
    [
        (None, True, False, True),
        (None, False, False, False),
        (None, True, True, False),
        (True, False, False, True),
        (True, False, True, True),
        (False, True, False, False),
        (False, True, True, False),
    ],
)
def test_trainings_are_scheduled_where_workers_can_or_are_said_to(
    setting: bool | None, installed: bool, in_containers: bool, scheduled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "has_policy_extra", lambda: installed)
    settings = Settings(schedule_training=setting)
    left_out = registry.extras_left_out(settings, in_containers=in_containers)
    assert left_out == (frozenset() if scheduled else {registry.POLICY})
    told = registry.told_unscheduled(settings, "coinswarm deploy", in_containers=in_containers)
    assert bool(told) is not scheduled


def test_what_does_not_run_by_itself_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "has_policy_extra", lambda: False)
    told = registry.told_unscheduled(Settings(), "coinswarm up")
    assert "train_agents and evaluate_agents" in told
    assert "pip install 'coinswarm-memory[policy]'. Then run coinswarm up again" in told
    assert "EXTRAS=jobs,scale,policy" in registry.told_unscheduled(Settings(), "coinswarm deploy", in_containers=True)
    chosen = registry.told_unscheduled(Settings(schedule_training=False), "coinswarm up")
    assert chosen.endswith("as COINSWARM_SCHEDULE_TRAINING says.")


def test_settings_of_a_deployment_are_parameters_of_its_flow() -> None:
    for each in ALL:
        assert set(each.parameters["parameters"]) <= set(parameters_of(each.flow).model_fields)
        assert each.parameters["parameters"]["namespace"] == "mine"


def test_the_night_begins_ten_minutes_after_its_window_ended() -> None:
    assert deployment("mine", "nightly").cron == "10 0 * * *"


def test_training_and_evaluation_come_weekly_and_apart() -> None:
    crons = [deployment("mine", flow).cron for flow in ("train_agents", "evaluate_agents")]
    assert [(cron or "").split()[2:] for cron in crons] == [["*", "*", "0"]] * 2
    assert crons[0] != crons[1]


def test_a_late_drain_is_dropped_and_a_late_night_waits() -> None:
    drain = deployment("mine", "record_experiences", DRAIN)
    assert (drain.at_once, drain.collision) == (1, "CANCEL_NEW")
    assert drain.parameters["parameters"]["source"] == "inbox"
    night = deployment("mine", "nightly")
    assert (night.at_once, night.collision) == (1, "ENQUEUE")


def test_nothing_else_begins_in_the_minute_of_another() -> None:
    minutes = [tuple((each.cron or "").split()[:2]) for each in ALL if each.cron and each.purpose != DRAIN]
    assert len(set(minutes)) == len(minutes)


def test_what_only_looks_or_measures_is_started_by_hand() -> None:
    for flow in ("benchmark_memory", "verify_memory", "rebuild_memory", "backfill", "restore_memory"):
        assert deployment("mine", flow).cron is None


def test_flows_are_imported_from_where_the_project_is_installed() -> None:
    for each in ALL:
        module, _, name = each.entrypoint.rpartition(".")
        assert find_spec(module) is not None
        assert name == each.flow


def test_all_tags_name_project_and_namespace() -> None:
    for each in ALL:
        assert {"coinswarm", "coinswarm:mine"} < set(each.all_tags)


def test_an_unknown_deployment_is_named_with_those_that_there_are() -> None:
    with pytest.raises(UnknownDeploymentError, match="nightly/mine"):
        deployment("mine", "nightly", "weekly")
