"""Secrets come from the environment or from files, and are taken out of whatever is said."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from pydantic import SecretStr

from memory.secret_files import SecretFileError
from memory.secrets import SecretFilter, hide_secrets, mask, redacted, remember
from memory.settings import Settings

CANARY = "canary-of-the-tests"

# --- masking ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis://:pw@h:1/0", "redis://:***@h:1/0"),
        ("at redis://me:pw@h, again", "at redis://me:***@h, again"),
        ("rediss+sentinel://me:p/w#@a:1,b:2/s", "rediss+sentinel://me:***@a:1,b:2/s"),
        ("postgresql+psycopg://u:p@ss:w/rd@/db?host=/run", "postgresql+psycopg://u:***@/db?host=/run"),
        (
            "postgresql://h/db?user=u&password=pw&sslmode=require",
            "postgresql://h/db?user=u&password=***&sslmode=require",
        ),
        ("host=h password=pw dbname=d", "host=h password=*** dbname=d"),
        ("host=h password = 'p w' dbname=d", "host=h password = *** dbname=d"),
        ("PGPASSWORD=pw psql", "PGPASSWORD=*** psql"),
        ("{'host': 'h', 'password': 'pw'}", "{'host': 'h', 'password': '***'}"),
        ('{"password": "pw", "port": 1}', '{"password": "***", "port": 1}'),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://:pw@[::1]:6379/0", "redis://:***@[::1]:6379/0"),
        ("https://u:pw@host/path", "https://u:***@host/path"),
        ("'sftp://u:pw@host'", "'sftp://u:***@host'"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("https://host/path?x=1:2@3", "https://host/path?x=1:2@3"),
        ("mail to me@host: 12:30", "mail to me@host: 12:30"),
        ("", ""),
    ],
)
def test_passwords_in_urls_are_masked_and_nothing_else(text: str, masked: str) -> None:
    assert mask(text) == redacted(text) == masked
    assert mask(masked) == masked


def test_a_known_secret_is_masked_wherever_it_stands_and_however_it_is_written() -> None:
    remember(SecretStr(f"redis://me:{CANARY}%2F1@host:1/0"))
    assert mask(f"it was {CANARY}/1, or {CANARY}%2F1.") == "it was ***, or ***."


def test_all_of_a_webhook_is_secret_and_all_passwords_of_a_list() -> None:
    remember(f"https://hooks.example/{CANARY}-w")
    assert mask(f"sent to https://hooks.example/{CANARY}-w: 404") == "sent to ***: 404"
    remember(f"redis://:{CANARY}-a@one, redis+sentinel://u:{CANARY}-b@two:1,three:2/s")
    assert mask(f"{CANARY}-a {CANARY}-b one two") == "*** *** one two"


def test_a_webhook_is_masked_though_a_client_shows_its_host_in_other_letters() -> None:
    remember(f"https://Hooks.Example/services/{CANARY}-v")
    assert mask(f'POST https://hooks.example/services/{CANARY}-v "404"') == 'POST https://hooks.example*** "404"'
    remember("https://hooks.example/alerts")
    assert mask("deployments/alerts.yml") == "deployments/alerts.yml"


def test_short_passwords_are_masked_in_urls_only() -> None:
    remember("redis://u:the@host")
    assert mask("the redis://u:the@host") == "the redis://u:***@host"


def test_settings_make_their_secrets_known() -> None:
    Settings(database_url=SecretStr(f"postgresql://u:{CANARY}-s@h/d"))
    assert mask(f"{CANARY}-s") == "***"


def test_passwords_in_other_urls_and_of_a_prefect_server_are_known_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", f"coinswarm:{CANARY}-p")
    Settings(archive_url=f"s3://key:{CANARY}-k@bucket")
    assert mask(f"{CANARY}-p {CANARY}-k of coinswarm") == "*** *** of coinswarm"


# --- logs and errors -------------------------------------------------------------------------------------------


def logged(level: int, message: str, *args: object, exc_info: bool = False) -> str:
    """What a handler with the filter writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(SecretFilter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.log(level, message, *args, exc_info=exc_info)
    return stream.getvalue()


def test_log_lines_lose_secrets_in_message_arguments_and_traceback() -> None:
    remember(f"redis://:{CANARY}-l@h")
    assert logged(logging.INFO, "to %s and %s", f"redis://:{CANARY}-l@h", 5) == "to redis://:***@h and 5\n"
    try:
        try:
            raise ValueError(f"Port could not be cast: {CANARY}-l")
        except ValueError as error:
            raise RuntimeError("outer") from error
    except RuntimeError:
        text = logged(logging.ERROR, "failed", exc_info=True)
    assert "RuntimeError: outer" in text
    assert "cast: ***" in text
    assert CANARY not in text


def test_a_log_line_whose_arguments_do_not_fit_is_written_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    remember(f"redis://:{CANARY}-m@h")
    assert logged(logging.INFO, "%d tries", f"{CANARY}-m") == "%d tries with ('***',), which do not fit\n"
    assert capsys.readouterr().err == ""


def test_errors_lose_secrets_in_fields_notes_and_arguments_of_every_kind() -> None:
    remember(f"redis://:{CANARY}-f@h")
    error = OSError(2, "No such file", f"/run/{CANARY}-f", None, f"/tmp/{CANARY}-f")
    error.add_note(f"while {CANARY}-f was read")
    nested = KeyError({"url": f"{CANARY}-f"}, 7)
    error.__cause__ = nested
    hide_secrets(error)
    assert CANARY not in f"{error} {error.__notes__} {nested.args}"
    assert nested.args[1] == 7


def test_errors_and_what_they_came_from_lose_secrets() -> None:
    remember(f"redis://:{CANARY}-e@h")
    cause = OSError(5, f"no {CANARY}-e")
    error = ExceptionGroup("some", [ValueError(f"redis://:{CANARY}-e@h", 7)])
    error.__cause__ = cause
    cause.__context__ = error
    hide_secrets(error)
    assert CANARY not in f"{error.exceptions[0]} {cause.args}"
    assert error.exceptions[0].args == ("redis://:***@h", 7)


# --- files -----------------------------------------------------------------------------------------------------


def test_a_secret_comes_from_the_file_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REDIS_URL", "DATABASE_URL", "WEBHOOK_URL"):
        path = tmp_path / name
        path.write_text(f"  https://host/{name}\n")
        monkeypatch.delenv(f"COINSWARM_{name}", raising=False)
        monkeypatch.setenv(f"COINSWARM_{name}_FILE", str(path))
    settings = Settings()
    for secret, name in (
        (settings.redis_url, "REDIS_URL"),
        (settings.database_url, "DATABASE_URL"),
        (settings.webhook_url, "WEBHOOK_URL"),
    ):
        assert secret is not None
        assert secret.get_secret_value() == f"https://host/{name}"
    assert Settings(redis_url=SecretStr("redis://given")).redis_url == SecretStr("redis://given")


def test_a_setting_that_is_no_secret_comes_from_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "namespace"
    path.write_text("other")
    monkeypatch.delenv("COINSWARM_NAMESPACE", raising=False)
    monkeypatch.setenv("COINSWARM_NAMESPACE_FILE", str(path))
    assert Settings().namespace == "default"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"one\ntwo\n", b"\xff\xfe", b"x" * 70_000])
def test_a_file_without_a_secret_is_refused_without_showing_what_it_holds(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "url"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.delenv("COINSWARM_REDIS_URL", raising=False)
    monkeypatch.setenv("COINSWARM_REDIS_URL_FILE", str(path))
    with pytest.raises(SecretFileError, match="COINSWARM_REDIS_URL_FILE") as caught:
        Settings()
    assert str(path) in str(caught.value)
    assert "two" not in str(caught.value)


def test_a_file_in_the_home_of_nobody_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COINSWARM_REDIS_URL", raising=False)
    monkeypatch.setenv("COINSWARM_REDIS_URL_FILE", "~no-such-user/url")
    with pytest.raises(SecretFileError, match="no such user"):
        Settings()


def test_an_empty_variable_counts_as_none_beside_a_file_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINSWARM_REDIS_URL", "")
    assert Settings().redis_url is None
    path = tmp_path / "url"
    path.write_text("redis://from-a-file")
    monkeypatch.setenv("COINSWARM_REDIS_URL_FILE", str(path))
    assert Settings().redis_url == SecretStr("redis://from-a-file")


def test_a_secret_and_a_file_for_it_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSWARM_REDIS_URL", "redis://one")
    monkeypatch.setenv("COINSWARM_REDIS_URL_FILE", str(tmp_path))
    with pytest.raises(SecretFileError, match="both set"):
        Settings()
