"""What log lines say of the work that they are about, for people and for programs."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import deployments
from memory import logs, secrets
from memory.logs import (
    ContextFilter,
    JsonFormatter,
    PassingFilter,
    TextFormatter,
    UiFormatter,
    file_handler,
    line_formatter,
    log_context,
)

Emit = Callable[..., str]


@pytest.fixture
def line() -> Emit:
    """Logs a message through a formatter, and returns the line."""

    def emit(formatter: logging.Formatter, message: str, *args: object, **kwargs: object) -> str:
        lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(handler.format(record))  # type: ignore[method-assign]
        handler.setFormatter(formatter)
        handler.addFilter(ContextFilter())
        logger = logging.Logger("coinswarm.test")
        logger.addHandler(handler)
        logger.info(message, *args, **kwargs)  # type: ignore[arg-type]
        (only,) = lines
        return only

    return emit


def test_a_line_for_people_ends_in_what_it_is_about(line: Emit) -> None:
    with log_context(flow="nightly", namespace="default", window="2021-06-17", run_id="ab12"):
        text = line(TextFormatter(), "read %d rows", 3)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO     coinswarm\.test \| read 3 rows \| "
        r"flow=nightly namespace=default window=2021-06-17 run_id=ab12",
        text,
    )


def test_logs_keep_one_of_many_lines_on_how_far_something_has_come_and_all_others() -> None:
    kept: list[list[str]] = [[], []]
    logger, shared = logging.Logger("coinswarm.test"), PassingFilter()
    for lines in kept:
        handler = logging.Handler()
        handler.emit = lambda record, lines=lines: lines.append(record.getMessage())  # type: ignore[method-assign, misc]
        handler.addFilter(shared)
        logger.addHandler(handler)
    logger.info("begun")
    for number in range(500):
        logger.info("%d keys", number, extra={"passing": True})
    logger.info("done")
    assert kept == [["begun", "0 keys", "done"]] * 2


def test_a_log_whose_disk_is_full_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COINSWARM_LOG_FILE", "/dev/full")
    logger, handler = logging.Logger("coinswarm.test"), file_handler()
    logger.addHandler(handler)
    for number in range(3):
        logger.info("line %d", number)
    with contextlib.suppress(OSError):
        handler.close()
    assert capfd.readouterr().err == "/dev/full: No space left on device; lines of the log are lost.\n"


def test_a_line_for_programs_is_one_json_object(line: Emit) -> None:
    with log_context(namespace="default", partition="replay-QUIET"):
        text = line(JsonFormatter(), 'two\nlines and "quotes"')
    assert "\n" not in text
    found = json.loads(text)
    assert (found["message"], found["level"], found["logger"]) == ('two\nlines and "quotes"', "INFO", "coinswarm.test")
    assert (found["namespace"], found["partition"]) == ("default", "replay-QUIET")
    assert "flow" not in found


def test_the_ui_is_told_what_it_does_not_show_itself(line: Emit) -> None:
    with log_context(flow="nightly", namespace="default", window="2021-06-17", run_id="0123456789abcdef"):
        assert line(UiFormatter(), "done") == "done  [namespace=default window=2021-06-17 run_id=01234567]"
    assert line(UiFormatter(), "done") == "done"


def test_an_inner_block_adds_and_takes_away_and_ends(line: Emit) -> None:
    with log_context(flow="nightly", task="fold"):
        with log_context(flow="prune_memories", task=None):
            assert logs.logged_fields() == {"flow": "prune_memories"}
        assert logs.logged_fields() == {"flow": "nightly", "task": "fold"}
    assert logs.logged_fields() == {}
    with pytest.raises(ValueError, match="colour"), log_context(colour="red"):
        pass


async def test_tasks_that_run_side_by_side_keep_their_own(line: Emit) -> None:
    async def work(window: str) -> str:
        with log_context(window=window):
            await asyncio.sleep(0)
            return line(UiFormatter(), "x")

    assert list(await asyncio.gather(work("a"), work("b"))) == ["x  [window=a]", "x  [window=b]"]


@pytest.mark.parametrize("formatter", [TextFormatter(), UiFormatter(), JsonFormatter()])
def test_no_secret_is_written_in_messages_or_tracebacks(line: Emit, formatter: logging.Formatter) -> None:
    secrets.remember("redis://user:c4nary-secret@host:6379")
    try:
        raise OSError("c4nary-secret was refused by postgresql://me:other-pass@host/db")
    except OSError:
        text = line(formatter, "at %s", "redis://user:c4nary-secret@host", exc_info=True)
    assert "OSError" in text
    assert "c4nary-secret" not in text
    assert "other-pass" not in text


def test_the_environment_chooses_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(line_formatter(), TextFormatter)
    monkeypatch.setenv("COINSWARM_LOG_FORMAT", "json")
    assert isinstance(line_formatter(), JsonFormatter)


def test_a_large_file_is_put_aside_and_one_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "logs" / "flows.log"
    monkeypatch.setenv("COINSWARM_LOG_FILE", str(path))
    monkeypatch.setattr(logs, "LOG_LIMIT_BYTES", 3)
    for text in ("first", "second", "third"):
        handler = file_handler()
        handler.emit(logging.makeLogRecord({"msg": text}))
        handler.close()
    assert path.read_text() == "third\n"
    assert path.with_name("flows.log.1").read_text() == "second\n"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COINSWARM_LOG_FILE", str(tmp_path / "file" / "flows.log"))
    with pytest.warns(UserWarning, match="COINSWARM_LOG_FILE"):
        assert isinstance(file_handler(), logging.NullHandler)


def test_a_file_that_two_find_too_large_is_put_aside_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "flows.log"
    path.write_text("old and large\n")
    monkeypatch.setenv("COINSWARM_LOG_FILE", str(path))
    monkeypatch.setattr(logs, "LOG_LIMIT_BYTES", 3)
    with path.open() as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = threading.Thread(target=file_handler)
        second.start()
        second.join(0.2)
        assert second.is_alive(), "it waits for the one that has begun"
        path.replace(path.with_name("flows.log.1"))
        path.write_text("new and large\n")
    second.join(60)
    assert path.with_name("flows.log.1").read_text() == "old and large\n"
    assert path.read_text() == "new and large\n"


def test_a_program_without_prefect_logs_in_the_same_form(tmp_path: Path) -> None:
    program = (
        "import logging; from memory.logs import set_up_logging, log_context; set_up_logging()\n"
        "with log_context(namespace='ns'): logging.getLogger('agents.trading').warning('late')"
    )
    environment = {"COINSWARM_LOG_FORMAT": "json", "COINSWARM_LOG_FILE": str(tmp_path / "agent.log")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == (tmp_path / "agent.log").read_text()
    found = json.loads(done.stderr)
    assert (found["level"], found["logger"], found["namespace"]) == ("WARNING", "agents.trading", "ns")


def test_a_run_whose_worker_was_killed_goes_on_and_its_lines_are_in_the_file(tmp_path: Path) -> None:
    configuration = json.loads((Path(deployments.__file__).with_name("logging.json")).read_text())
    # Without those of Prefect: the two that all lines pass.
    kept = {name: configuration["handlers"][name] for name in ("console", "file")}
    configuration |= {"handlers": kept, "loggers": {}}
    program = (
        "import json, logging.config, sys; logging.config.dictConfig(json.load(sys.stdin))\n"
        "for number in range(3): logging.getLogger('tasks').warning('line %d', number)"
    )
    read, write = os.pipe()
    os.close(read)
    log = tmp_path / "flows.log"
    try:
        subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(configuration),
            env={"COINSWARM_LOG_FILE": str(log)},
            stderr=write,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write)
    assert re.findall(r"line \d", log.read_text()) == ["line 0", "line 1", "line 2"]
