"""The documents say what there is: links lead somewhere, commands and settings exist, every module is named."""

from __future__ import annotations

import re
import shlex
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

from deployments.cli import app
from flows import FLOWS, parameters_of
from memory.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
ROOMS = ("memory", "agents", "tasks", "flows", "deployments")
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
_PLACEHOLDER = re.compile(r"[A-Z_|]+|\.\.\.")


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_lead_to_what_there_is(document: Path) -> None:
    for match in _LINK.finditer(_FENCE.sub("", document.read_text(encoding="utf-8"))):
        target = match[1] or match[2]
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{target}: there is no such file"
        assert not anchor or anchor in anchors(file), f"{target}: there is no such heading"


def test_every_picture_is_shown() -> None:
    text = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    assert not [path.name for path in sorted((ROOT / "docs/images").iterdir()) if path.name not in text]


@cache
def anchors(document: Path) -> frozenset[str]:
    """The names of a document's headings, as links write them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", document.read_text(encoding="utf-8")), re.MULTILINE)
    return frozenset(re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings)


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_commands_have_the_options_that_documents_give_them(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    shell = "\n".join(code for kind, code in _FENCE.findall(text) if kind == "sh").splitlines()
    inline = [" ".join(code.split()) for code in _INLINE.findall(_FENCE.sub("", text))]
    for line in [*shell, *inline]:
        words = shlex.split(line, comments=True) if "coinswarm " in line else []
        if words and words[0] in {"coinswarm", ".venv/bin/coinswarm"}:
            check_command(words[1:], line)


def check_command(words: list[str], line: str) -> None:
    """Fail where a command line names a command, an option, a flow or a parameter that does not exist."""
    command = command_line()
    if "|" in words or words[:1] == ["..."]:
        return
    while words and hasattr(command, "commands") and not words[0].startswith("-") and not _PLACEHOLDER.match(words[0]):
        assert words[0] in command.commands, f"{line!r}: there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    known = {name for given in command.params for name in (*given.opts, *given.secondary_opts)} | {"--help"}
    for word in words:
        if word.startswith("-") and not re.match(r"-\d", word):
            assert word.partition("=")[0] in known, f"{line!r}: there is no option {word!r}"
    if command.name == "run" and words and not words[0].startswith("-") and not _PLACEHOLDER.fullmatch(words[0]):
        assert words[0] in FLOWS, f"{line!r}: there is no flow {words[0]!r}"
        given = [after for word, after in pairwise(words) if word in {"--param", "-p"}]
        fields = parameters_of(words[0]).model_fields
        assert {each.partition("=")[0] for each in given} <= set(fields), f"{line!r}: not among {sorted(fields)}"


@cache
def command_line() -> Any:
    """All commands with their options, as Typer understands them; a tenth of a second."""
    return typer.main.get_command(app)


def test_every_setting_is_listed_with_its_default() -> None:
    listed = dict(settings_listed())
    fields = {name: field for name, field in Settings.model_fields.items() if name not in {"learning"}}
    assert {name.lower() for name in listed if not name.endswith("_FILE") and name != "LEARNING"} == set(fields)
    for name, field in fields.items():
        if isinstance(field.default, (bool, int, float)) or (isinstance(field.default, str) and field.default):
            written = listed[name.upper()].strip("`").replace(",", "")
            assert written == str(field.default).removesuffix(".0").lower() or written == str(field.default), (
                f"{name}: docs/settings.md says {written!r}, the default is {field.default!r}"
            )


def settings_listed() -> list[tuple[str, str]]:
    """Names and defaults in the tables of docs/settings.md, but for those of learning."""
    text = (ROOT / "docs/settings.md").read_text(encoding="utf-8").partition("## Learning")[0]
    found = []
    for row in re.findall(r"^\| (`[A-Z].*?) \| (.*?) \|", text, re.MULTILINE):
        names = _INLINE.findall(row[0])
        defaults = row[1].split(", ") if row[1].count(", ") == len(names) - 1 else [row[1]] * len(names)
        found += list(zip(names, defaults, strict=True))
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_the_architecture_names_every_module(room: str) -> None:
    described = described_modules()
    missing = []
    for path in sorted((ROOT / room).rglob("*.py")):
        # Forms are named by their flows, migrations by their numbers.
        if path.name == "__init__.py" or path.parent.name in {"forms", "versions"}:
            continue
        package = next(each for each in path.parents if each.relative_to(ROOT).as_posix() in described)
        if path.relative_to(package).as_posix() not in described[package.relative_to(ROOT).as_posix()]:
            missing.append(path.relative_to(ROOT).as_posix())
    assert not missing, "name them in ARCHITECTURE.md, below the heading of their package"


def test_the_architecture_names_no_module_that_is_gone() -> None:
    for package, names in described_modules().items():
        for name in names:
            assert (ROOT / package / name).exists(), f"ARCHITECTURE.md names {package}/{name}, which is not there"


@cache
def described_modules() -> dict[str, frozenset[str]]:
    """The modules that ARCHITECTURE.md names below the heading of each package."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## Modules")[2]
    sections = re.split(r"^### (.+)$", text, flags=re.MULTILINE)
    return {
        package: frozenset(name for name in _INLINE.findall(body) if re.fullmatch(r"[\w/]+\.py", name))
        for package, body in zip(sections[1::2], sections[2::2], strict=True)
        if (ROOT / package).is_dir()
    }
