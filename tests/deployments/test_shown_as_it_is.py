"""What comes from outside is shown as it is, by every command: no bracket is a style, no word in colons a picture."""

from __future__ import annotations

import ast
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import deployments
from deployments.acl import show_acl
from deployments.backups import show_backup, show_restore, show_snapshots
from deployments.console import Console, plain_console
from deployments.decision_shown import show_decision
from deployments.deploy import show_deployed, show_written
from deployments.doctor import show_checks
from deployments.explain import show_lineage
from deployments.keeping import show_janitor
from deployments.leakcheck import show_leaks
from deployments.letters import show_drop, show_list, show_one, show_retry
from deployments.moving import show_export, show_import
from deployments.pattern_choice import Choice
from deployments.patterns import show_patterns
from deployments.reports import show_path
from deployments.running import show_demo, show_flow_result
from deployments.search_shown import show_search
from deployments.status import show_status
from deployments.up_shown import show_up
from deployments.upgrading import show_upgrade
from tasks.progress import announce

AWKWARD = "[b] :bug: [red]x[/red] [/] [link=http://x]"
TIME = "2021-06-17T00:00:00+00:00"


def odd(name: str) -> str:
    """A value of that name as somebody else may have written it."""
    return f"{name} {AWKWARD}"


def counts(*names: str) -> dict[str, int]:
    return dict.fromkeys(names, 1)


STATUS: Mapping[str, Any] = {
    "namespace": "n",
    "home": odd("/home"),
    "servers": [{"name": "redis", "state": "down", "version": odd("version"), "address": odd("unix:///r")}],
    "up": {"state": "ready", "pid": 1, "namespace": odd("other"), "ui": odd("ui"), "metrics": odd("metrics")},
    "problems": {"redis": odd("problem")},
    "memory": {
        **counts("experiences", "shared", "decisions", "messages", "inbox", "dead_letters", "used_bytes"),
        "experiences_by_source": {odd("source"): 1},
        "semantic": {},
        "limit_bytes": 0,
        "encoder": odd("encoder"),
        "indexes": [
            {**counts("documents", "bytes", "failures"), "name": odd("index"), "layout": "FLAT", "building": False}
        ],
    },
    "ledger": {
        **counts("windows", "bytes", "archive_bytes", "archive_files"),
        **{"newest_window": odd("window"), "stale": [odd("stale")], "sealed": [], "schema": "1"},
        "held_by": odd("holder"),
    },
    "knowledge": {"age_s": 60.0, "window": "w", "windows": 1, "line": odd("line"), "live": True, "too_old": False},
    "flows": [
        {
            "flow": odd("flow"),
            "last": {"status": "FAILED", "window": odd("of"), "started_at": TIME, "seconds": 1.0},
            **{"last_success": None, "next": None},
        }
    ],
    "failures": [
        {
            **{"flow": "nightly", "window": None, "status": "FAILED", "started_at": TIME, "error": odd("error")},
            **{"part_of": odd("whole"), "retry": [odd("coinswarm run")]},
        }
    ],
    "disk": {},
}
CONTENTS: Mapping[str, Any] = {
    **{"cut": TIME, "snapshot": odd("/b"), "redis": {odd("kind"): 1}, "ledger": {}, "bytes": 1, "missing": []},
    **{"dropped": [odd("old")], "expired": 0},
}
LETTER: Mapping[str, Any] = {
    **{"entry_id": odd("1-1"), "received_at": TIME, "agent_id": odd("agent"), "origin": odd("origin")},
    **{"field": odd("field"), "reason": odd("reason")},
}
LETTERS_LEFT: Mapping[str, Any] = {"unknown": [odd("2-2")], "left": 1}
DECISION: Mapping[str, Any] = {
    "decision": {
        **{"agent_id": odd("agent"), "action": {"side": "BUY", "size": 1.0}, "product_id": odd("product")},
        **{"timestamp": TIME, "confidence": 0.5, "position_before": 0.0, "regime": odd("regime")},
        **{
            "policy": odd("policy"),
            "encoder_id": odd("encoder"),
            "probabilities": [],
            "features": {odd("feature"): 1.0},
        },
        **{"policy_parameters": {odd("parameter"): odd("of")}, "messages": []},
    },
    "own": [
        {
            **{"distance": 0.1, "held": True, "agent_id": odd("other"), "product_id": "p", "timestamp": TIME},
            **{"known_at": TIME, "regime": "r", "side": "BUY", "size": 1.0, "reward": 0.1, "memory_id": odd("memory")},
        }
    ],
    **{"shared": [], "knowledge": [], "unread": [], "nights": [], "runs": [], "policy": None},
    "replay": {"status": "equal", "values": 1, "how": odd("how"), "differences": [odd("difference")]},
}
SHOWN: Mapping[str, tuple[Callable[..., None], Mapping[str, Any]]] = {
    "status": (show_status, STATUS),
    "doctor": (
        show_checks,
        {
            "checks": [{"name": odd("check"), "status": "fail", "seen": odd("seen"), "remedy": odd("remedy")}],
            **{"counts": counts("ok", "warn", "fail"), "namespace": "n", "home": odd("/home")},
        },
    ),
    "acl": (
        show_acl,
        {
            **{"applied": [odd("server")], "open": [odd("unlocked")], "lasting": True},
            "users": [{"user": odd("user"), "url_file": odd("/file")}],
        },
    ),
    "backup": (show_backup, CONTENTS),
    "restore": (
        show_restore,
        {
            **{**CONTENTS, "snapshot": "", "dropped": [], "dry_run": False, "ledger_schema": "0"},
            **{"into": odd("into"), "source": odd("source"), "searches": 1},
        },
    ),
    "backup --list": (
        show_snapshots,
        {
            **{"namespace": odd("n"), "folder": odd("/folder")},
            "snapshots": [{"snapshot": "/b/1", "problem": odd("problem")}],
        },
    ),
    "janitor": (
        show_janitor,
        {
            "dry_run": True,
            "expired": [{"what": odd("what"), "number": 1, "bytes": 1, "rule": odd("rule")}],
        },
    ),
    "export": (
        show_export,
        {
            **counts("experiences", "archived", "decisions", "files", "bytes"),
            **{"missing": [odd("lost")], "elsewhere": {odd("encoder"): 1}, "path": odd("/out")},
        },
    ),
    "import": (
        show_import,
        {
            **counts("stored", "duplicates", "decisions"),
            **{"encoders": {odd("encoder"): "beside"}, "namespace": odd("n"), "refused": {odd("reason"): 1}},
        },
    ),
    "deploy": (
        show_deployed,
        {
            "deployments": {odd("nightly/n"): {"cron": odd("cron")}},
            **{"created": [], "changed": [], "automations": {odd("alert"): "id"}, "removed": [odd("gone")]},
            **{"remark": odd("remark"), "alerts": True, "embedded": False, "worker": odd("prefect worker start")},
        },
    ),
    "deploy --write": (show_written, {"path": odd("/file"), "changed": True}),
    "report": (show_path, {"path": odd("/report")}),
    "upgrade": (
        show_upgrade,
        {
            "findings": [
                {"part": odd("part"), "found": odd("found"), "wanted": odd("wanted"), "state": "s", "todo": odd("todo")}
            ],
            **{"done": [odd("done")], "status": "pending", "back_up_first": [odd("first")]},
        },
    ),
    "deadletters list": (
        show_list,
        {
            **{"count": 1, "namespace": odd("n"), "letters": [LETTER]},
            "reasons": [{"letters": 1, "field": odd("one"), "newest": odd("newest")}],
        },
    ),
    "deadletters show": (show_one, {**LETTER, "content": {odd("name"): odd("value")}}),
    "deadletters retry": (
        show_retry,
        {
            **{"to_inbox": 1, "to_readers": 0, "sent": 0, "agents": {odd("agent"): 1}, **LETTERS_LEFT},
            "kept": [{"why": odd("why")}],
        },
    ),
    "deadletters drop": (show_drop, {"dropped": 1, **LETTERS_LEFT}),
    "explain a pattern": (
        show_lineage,
        {
            "lines": [
                {
                    **{"pattern": odd("pattern"), "line": odd("line"), "names_before": [odd("before")], "support": 1},
                    **{"windows_seen": 1, "status": odd("status")},
                    "events": [
                        {
                            **{"window": odd("window"), "kind": odd("kind"), "pattern_id": odd("id")},
                            **{"other_id": odd("other"), "rule": odd("rule"), "says": odd("says")},
                        }
                    ],
                }
            ]
        },
    ),
    "explain a decision": (show_decision, DECISION),
    "search": (
        show_search,
        {
            **{"as_of_says": odd("then"), "notes": [odd("note")], "filters": {"product": odd("product")}},
            "state": {"name": odd("state"), "price": None, "regime": odd("regime"), "regime_confidence": None}
            | {"encoder_id": odd("encoder")},
            "experiences": [
                {
                    **{"distance": 0.1, "timestamp": TIME, "agent_id": odd("agent"), "product_id": odd("traded")},
                    **{"regime": odd("then in"), "side": "BUY", "size": 1.0, "position_after": 0.0, "reward": 0.0},
                    **{"age_s": 1.0, "memory_id": odd("memory")},
                }
            ],
            **{"shared": False, "patterns": [], "estimates": []},
        },
    ),
    "leakcheck": (
        show_leaks,
        {
            **{"as_of": odd("then"), "status": "LEAK", "first_difference": odd("difference")},
            "checks": [{"name": odd("check"), "values": 1, "later": 1, "verdict": "LEAK"}],
        },
    ),
    "run": (
        show_flow_result,
        {
            odd("figure"): odd("of"),
            "listed": [{"part": odd("part"), "what": "w", "means": odd("means"), "where": odd("where")}],
            "findings": [{"heading": odd("heading"), "text": odd("text")}],
            **{"benchmark": {"regressions": [odd("slower")]}, "report": odd("/report")},
        },
    ),
    "up": (
        show_up,
        {
            **{"ui": odd("ui"), "login_file": odd("/login"), "metrics": odd("metrics"), "logs": odd("/logs")},
            "deployments": [{"name": odd("nightly/n"), "next_run": TIME}],
            **{"summary": odd("summary"), "already_running": False},
        },
    ),
}


def values_in(held: Any) -> list[str]:
    """All awkward texts of a result."""
    if isinstance(held, Mapping):
        return [*values_in(list(held)), *values_in(list(held.values()))]
    if isinstance(held, list):
        return [text for item in held for text in values_in(item)]
    return [held] if isinstance(held, str) and AWKWARD in held else []


def shown(show: Callable[..., None], *arguments: Any) -> str:
    page = io.StringIO()
    show(arguments[0], plain_console(file=page, width=2000), *arguments[1:])
    return page.getvalue()


@pytest.mark.parametrize("command", SHOWN)
def test_every_text_of_a_result_is_shown_as_it_is(command: str) -> None:
    show, result = SHOWN[command]
    page = shown(show, result)
    wanted = values_in(result)
    assert wanted
    assert [text for text in wanted if text not in page and text.replace("_", " ") not in page] == []


def test_patterns_are_shown_as_they_are() -> None:
    pattern = {"pattern_id": odd("id"), "regime": odd("regime"), "demoted": False, "status": odd("status")}
    page = shown(show_patterns, [{**pattern, "support": 1, "leading": None, "description": odd("what")}], 5, Choice())
    for text in (odd("id"), odd("regime"), odd("status"), odd("what")):
        assert text in page


def test_the_nights_of_a_demo_lead_to_a_report_whose_path_is_shown_as_it_is() -> None:
    names = ("experiences", "clusters", "patterns_new", "patterns_confirmed", "patterns_faded", "patterns")
    night = {**counts(*names), "window": odd("2021-06-17"), "confirmation_rate": None, "null_confirmation_rate": None}
    page = shown(show_demo, {"nights": [night], "namespace": "n", "decision": odd("id"), "report": odd("/report")})
    for text in (odd("2021-06-17"), odd("id"), odd("/report")):
        assert text in page


def test_steps_are_told_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().steps(odd("Exporting to")):
        announce(odd("a step"))
    assert capsys.readouterr().err.splitlines() == [odd("Exporting to"), f"  {odd('a step')}"]


def test_a_home_is_named_as_it_is(typed: Any, tmp_path: Path) -> None:
    home = tmp_path / "a [b] :bug: [red]home"
    unset = {"COINSWARM_REDIS_URL": "", "COINSWARM_DATABASE_URL": ""}
    assert f" in {home}\n" in typed("status", COINSWARM_HOME=str(home), **unset).stdout
    home.write_text("no folder")
    assert f"{home} is no folder" in typed("status", COINSWARM_HOME=str(home), **unset).stderr


def test_no_command_has_a_console_of_its_own_or_reads_tags() -> None:
    """The one of `deployments.console` takes no text for anything else, whoever prints."""
    for path in sorted(Path(deployments.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                made = ast.unparse(node.func)
                assert made != "rich.console.Console" or path.name == "console.py", (path, node.lineno)
                assert "from_markup" not in made, (path, node.lineno)
                tags = [word for word in node.keywords if word.arg in ("markup", "emoji")]
                assert all(ast.unparse(word.value) == "False" for word in tags), (path, node.lineno)
