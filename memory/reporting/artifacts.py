"""What a run leaves behind in the Prefect UI: markdown that says what was read, learned, changed and dropped; tables.

Names and texts come from data: all of them are escaped here, so that none can be markup, a link or HTML. One of
Prefect's two UIs renders descriptions and the cells of tables as markdown too, the other shows cells as they are: what
is literal anyway, such as the name of a regime, is therefore left as it is, and cells hold no links.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from memory.errors import InvalidQueryError
from memory.reporting import wording

_MARKUP = re.compile(r"([\\`*\[\]#|~!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
"""What may be markup; an underscore within a word never is."""
_BARE_HOST = re.compile(r"(www)\.", re.IGNORECASE)
_LIST_MARK = re.compile(r"^(\d*)([-+=.)])(?=\s|[-+=]|$)")
_TARGET = re.compile(r"(https?://[^\s()<>\"'\\|`@]+|/[A-Za-z0-9][A-Za-z0-9/_.#-]*)")
_LONGEST_TEXT = 2000
"""Characters of one value: a page of it is no summary."""

TABLE_ROWS = 200
"""Rows of a table; the UI shows them in pages of ten."""


def escaped(text: str) -> str:
    """Text from data as literal text within a line of markdown: no markup, no HTML, no line break, no link.

    The UI makes links of bare addresses too: what tells it that there is one is written as an entity.
    """
    flat = " ".join(text.split())
    flat = flat if len(flat) <= _LONGEST_TEXT else f"{flat[: _LONGEST_TEXT - 1]}…"
    safe = _MARKUP.sub(r"\\\1", flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    safe = _BARE_HOST.sub(r"\1&#46;", safe.replace("://", ":&#47;&#47;").replace("@", "&#64;"))
    return _LIST_MARK.sub(r"\1\\\2", safe)


@dataclass(frozen=True, slots=True)
class Link:
    """A link: its text is escaped, its target must be a plain web address or a path of the UI.

    Raises
    ------
    InvalidQueryError
        Another target; one with a user or a password in it is refused too.
    """

    text: str
    target: str

    def __post_init__(self) -> None:
        if not _TARGET.fullmatch(self.target) or self.target.startswith("//"):
            raise InvalidQueryError(
                "the target of a link is neither a plain http(s) address nor a path of the UI.",
                remedy="Leave out spaces, brackets, quotes and users; link to an artifact by artifact_link.",
                argument="target",
            )


Value = str | int | float | bool | Link | None
"""What a summary or a table may hold."""


def artifact_link(text: str, key: str) -> Link:
    """A link to the newest artifact of a key."""
    return Link(text, f"/artifacts/key/{key}")


@dataclass(frozen=True, slots=True)
class Table:
    """A table beside a summary: its name becomes part of a key, its title its description."""

    name: str
    title: str
    rows: Sequence[Mapping[str, Value]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What one run came to, as plain values; what was not to be had is left out, and what is empty is not shown.

    Attributes
    ----------
    read, learned, changed, dropped
        Figures by what they are.
    notes
        Sentences, one a line: problems first.
    links
        Where to read more: the report, other artifacts.
    """

    title: str
    read: Mapping[str, Value] = field(default_factory=dict)
    learned: Mapping[str, Value] = field(default_factory=dict)
    changed: Mapping[str, Value] = field(default_factory=dict)
    dropped: Mapping[str, Value] = field(default_factory=dict)
    notes: Sequence[str] = ()
    links: Sequence[Link] = ()
    tables: Sequence[Table] = ()

    @property
    def sections(self) -> tuple[tuple[str, Mapping[str, Value]], ...]:
        """The four kinds of figures under their headings."""
        return ("Read", self.read), ("Learned", self.learned), ("Changed", self.changed), ("Dropped", self.dropped)


def artifact_key(*parts: str) -> str:
    """The key of an artifact, equal for all runs: the parts joined by dashes.

    Raises
    ------
    InvalidQueryError
        A part that holds anything but a-z, 0-9 and single dashes within.
    """
    for part in parts:
        if not re.fullmatch(r"[a-z0-9-]+", part):
            raise InvalidQueryError(
                f"{part!r} cannot be part of an artifact's key.",
                remedy="Use a-z, 0-9 and '-'.",
                argument="key",
            )
    return "-".join(parts)


def summary_markdown(summary: RunSummary) -> str:
    """A summary as markdown: a heading, the notes, a list under each heading, the links."""
    lines = [f"# {escaped(summary.title)}", ""]
    lines += [f"{escaped(note)}\n" for note in summary.notes]
    for heading, figures in summary.sections:
        if figures:
            lines += [f"**{heading}**", ""]
            lines += [f"* {escaped(name)}: {shown(value)}" for name, value in figures.items()]
            lines.append("")
    lines += [f"{shown(link)}\n" for link in summary.links]
    if not any(figures for _, figures in summary.sections) and not summary.notes:
        lines.append("Nothing was to be done.")
    return "\n".join(lines).rstrip() + "\n"


def table_cells(table: Table) -> list[dict[str, str | int | float | None]]:
    """The rows of a table as the UI takes them: JSON values, texts and headings escaped, `TABLE_ROWS` at most.

    The UI takes the columns of the first row for those of all: each row has all of them.
    """
    rows = table.rows[:TABLE_ROWS]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return [{escaped(name): _cell(row.get(name)) for name in columns} for row in rows]


def table_title(table: Table) -> str:
    """A table's title, escaped, and how many rows were left out."""
    left_out = len(table.rows) - TABLE_ROWS
    return escaped(table.title) + (f" (the first {TABLE_ROWS}; {left_out:,} more)" if left_out > 0 else "")


def shown(value: Value) -> str:
    """A value in markdown."""
    if value is None:
        return wording.MISSING
    if isinstance(value, Link):
        return f"[{escaped(value.text)}]({value.target})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if math.isfinite(value) else wording.MISSING
    return escaped(value)


def _cell(value: Value) -> str | int | float | None:
    """A value in a cell: numbers stay numbers, so that the UI's search and copies of it have them; of a link its text.

    The UI that shows cells as they are would show its target beside it.
    """
    if isinstance(value, Link):
        return escaped(value.text)
    if isinstance(value, bool | str):
        return shown(value)
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
