"""What the log lines of a task are about, by its arguments."""

from __future__ import annotations

import logging
import re
from datetime import date
from typing import Any

import pytest

from memory.logs import ContextFilter, TextFormatter, log_context, logged_fields
from memory.window import Window
from tasks.consolidation import Part
from tasks.log_fields import TaskFields
from tasks.retry import retried
from tasks.runs import TaskContext, logged_run

CONTEXT = TaskContext(namespace="default", run_id="r-1", token=1, window="2021-06-17", host="here", learning="{}")
PART = Part(
    line="default/rff-1/1",
    window="2021-06-18",
    encoder_id="rff-1",
    source="replay",
    content_digest="d",
    recorded_cut_ms=0,
    known_at_ms=0,
    states=1,
    experiences=1,
    partitions=("QUIET",),
)


def fields_of(function: Any, *args: Any, **kwargs: Any) -> dict[str, str]:
    with TaskFields(function).of(args, kwargs):
        return logged_fields()


def test_a_partition_is_named_by_source_and_regime() -> None:
    def summarise(context: TaskContext, part: Part, regime: str) -> None: ...

    found = fields_of(summarise, CONTEXT, part=PART, regime="QUIET")
    assert found == {
        "namespace": "default",
        "run_id": "r-1",
        "window": "2021-06-18",
        "partition": "replay-QUIET",
        "task": "summarise",
    }


def test_plain_arguments_count_by_their_names() -> None:
    def measure(namespace: str, run_id: str, window: Window, queries: int) -> None: ...

    found = fields_of(measure, "default", "r-2", Window.of_date(date(2021, 6, 17)), 300)
    assert found == {"namespace": "default", "run_id": "r-2", "window": "2021-06-17", "task": "measure"}


def test_a_call_with_wrong_arguments_is_left_to_the_call_itself() -> None:
    def measure(namespace: str) -> None: ...

    assert fields_of(measure, "default", "too", "many") == {"task": "measure"}


def test_a_run_within_a_task_begins_anew() -> None:
    with (
        log_context(flow="nightly", task="outer", partition="p", window="2021-06-01"),
        log_context(**logged_run("prune_memories", "default", "r-3", None)),
    ):
        assert logged_fields() == {"flow": "prune_memories", "namespace": "default", "run_id": "r-3"}


@pytest.mark.parametrize(("states", "said"), [(700, r"\d+\.\d s"), (0, r"failed after \d+\.\d s: no states")])
def test_each_attempt_is_told_with_its_partition(caplog: pytest.LogCaptureFixture, states: int, said: str) -> None:
    @retried()
    def summarise(context: TaskContext, part: Part, regime: str) -> int:
        if not states:
            raise ValueError("no states")
        return states

    caplog.set_level(logging.INFO, logger=__name__)
    caplog.handler.addFilter(ContextFilter())
    try:
        assert summarise.fn(CONTEXT, PART, "QUIET") == states
    except ValueError:
        assert not states
    (record,) = caplog.records
    about = "namespace=default window=2021-06-18 partition=replay-QUIET task=summarise run_id=r-1"
    assert re.search(rf"\| summarise: {said} \| {about}$", TextFormatter().format(record))
