"""matplotlib figures as inline SVG that follows the page: its fonts, its colours, light and dark.

Figures are objects of their own (`pyplot` keeps global state and is not used). The few settings that matplotlib reads
from its global `rcParams` are set for the time of drawing only, under a lock, since runs may share a process.
"""

from __future__ import annotations

import io
import re
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memory.reporting.theme import CSS_VARIABLES, GRID, INK, MUTED

FONT_SIZE = 11.0
"""Pixels; drawings are shown at about their natural size, so that text stays readable on a phone."""

COLUMN = 340
"""Pixels across a chart that stands in a column: what a phone has room for, so that text keeps its size there."""

LARGEST_SCALE = 1.32
"""Drawings grow with the page by this at most, so that their text never outgrows the page's."""

_POINTS_PER_INCH = 72.0
"""Resolution of matplotlib's SVG: at one point a pixel, sizes below are pixels."""

# The type of the keys differs between the versions of matplotlib that are supported.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "coinswarm",
    # Names come from data; a dollar sign in one must not start a formula.
    "text.parse_math": False,
    "font.size": FONT_SIZE,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.labelsize": FONT_SIZE,
    "axes.titlesize": FONT_SIZE + 1,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.unicode_minus": True,
    "axes.axisbelow": True,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": FONT_SIZE,
    "ytick.labelsize": FONT_SIZE,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
    "path.simplify_threshold": 0.4,
    "figure.dpi": _POINTS_PER_INCH,
}

_LOCK = threading.RLock()
_NAMESPACE = "{http://www.w3.org/2000/svg}"
_XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
_FONT = re.compile(r"font:\s*([^;]*)")
_FONT_FAMILY = re.compile(r"font-family:[^;]*;?\s*")
_HEX = re.compile(r"#[0-9a-fA-F]{6}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")


@dataclass(frozen=True, slots=True)
class Marks:
    """Tooltips and links for the points of one scatter, whose artist carries `gid`, in drawing order."""

    gid: str
    titles: Sequence[str]
    links: Sequence[str | None] = ()


@contextmanager
def drawing() -> Iterator[None]:
    """Style under which all figures of a report are built and written; everything outside it is left as it was."""
    with _LOCK, mpl.rc_context(_STYLE):
        yield


def axes_of(
    width: float, height: float, *, left: float = 44, right: float = 12, top: float = 26, bottom: float = 34
) -> tuple[Figure, Axes]:
    """A figure of one panel; the size and the margins around the panel are pixels."""
    figure = Figure(figsize=(width / _POINTS_PER_INCH, height / _POINTS_PER_INCH), dpi=_POINTS_PER_INCH)
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(box)
    return figure, axes


def inline_svg(figure: Figure, *, name: str, label: str, marks: Sequence[Marks] = ()) -> Markup:
    """A figure as one `<svg>` element to be placed in a page. Cost: 10 to 60 ms.

    Parameters
    ----------
    figure
        Built under `drawing()`; uses colours of `memory.reporting.theme` only.
    name
        Prefix of the element ids, unique within the page.
    label
        What the picture shows, for those who do not see it.
    marks
        Tooltips for scatters.

    Raises
    ------
    ValueError
        A colour outside the theme, or marks that do not fit what was drawn.
    """
    buffer = io.BytesIO()
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    # The document was written a line above by matplotlib; nothing of it comes from outside.
    root = ET.fromstring(buffer.getvalue())  # noqa: S314
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{_NAMESPACE}metadata" or (child.tag == f"{_NAMESPACE}style"):
                parent.remove(child)
    for entry in marks:
        _mark(root, entry)
    _restyle(root, name)
    width, height = (float(root.attrib.pop(side).removesuffix("pt")) for side in ("width", "height"))
    root.attrib.pop("version", None)
    root.attrib.update(
        {"class": "chart", "role": "img", "aria-label": label, "style": f"max-width:{width * LARGEST_SCALE:.0f}px"}
    )
    root.attrib["viewBox"] = f"0 0 {width:g} {height:g}"
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 - serialised, hence escaped, by ElementTree


def _mark(root: ET.Element, marks: Marks) -> None:
    group = next((element for element in root.iter() if element.get("id") == marks.gid), None)
    # A scatter that draws nothing leaves no group. Equal marks are drawn as uses of one path, others as paths.
    shapes = [] if group is None else list(_shapes(group))
    if len(shapes) != len(marks.titles):
        raise ValueError(f"{marks.gid} drew {len(shapes)} points for {len(marks.titles)} titles: leave out NaN points")
    links = marks.links or [None] * len(shapes)
    for (parent, shape), title, link in zip(shapes, marks.titles, links, strict=True):
        ET.SubElement(shape, f"{_NAMESPACE}title").text = title
        if link is not None:
            anchor = ET.Element(f"{_NAMESPACE}a", {"href": link})
            position = list(parent).index(shape)
            parent.remove(shape)
            anchor.append(shape)
            parent.insert(position, anchor)


def _shapes(group: ET.Element) -> Iterator[tuple[ET.Element, ET.Element]]:
    """Drawn marks with their parents, in drawing order; what stands in `defs` is not drawn by itself."""
    for child in group:
        if child.tag in (f"{_NAMESPACE}use", f"{_NAMESPACE}path"):
            yield group, child
        elif child.tag != f"{_NAMESPACE}defs":
            yield from _shapes(child)


def _restyle(root: ET.Element, name: str) -> None:
    used = {match for element in root.iter() for match in _references(element)}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_NAMESPACE)
        identifier = element.attrib.pop("id", None)
        if identifier in used:
            element.set("id", f"{name}-{identifier}")
        link = element.attrib.pop(_XLINK_HREF, None)
        if link is not None:
            element.set("href", f"#{name}-{link[1:]}")
        for attribute in ("style", "clip-path"):
            if attribute in element.attrib:
                value = _REFERENCE.sub(rf"url(#{name}-\1)", element.attrib[attribute])
                element.set(attribute, _HEX.sub(_variable, _FONT.sub(_own_font, _FONT_FAMILY.sub("", value))))
        # CSS variables work in styles only, not in attributes such as those of a hatch's background.
        for attribute in ("fill", "stroke"):
            if _HEX.fullmatch(element.get(attribute, "")):
                own = _HEX.sub(_variable, element.attrib.pop(attribute))
                element.set("style", f"{attribute}: {own}; {element.get('style', '')}".rstrip("; "))
        for attribute in ("d", "transform", "x", "y"):
            if attribute in element.attrib:
                element.set(attribute, _NUMBER.sub(_shorter, element.attrib[attribute]))


def _references(element: ET.Element) -> Iterator[str]:
    link = element.get(_XLINK_HREF)
    if link is not None:
        yield link[1:]
    for attribute in ("style", "clip-path"):
        yield from _REFERENCE.findall(element.get(attribute, ""))


def _own_font(match: re.Match[str]) -> str:
    """The page's font in the size and weight that matplotlib asked for."""
    words = match.group(1).split()
    size = next(word for word in words if word.endswith("px"))
    weight = next((word for word in words if word in ("bold", "600", "700")), None)
    return f"font-size: {size}" + (f"; font-weight: {weight}" if weight else "")


def _variable(match: re.Match[str]) -> str:
    try:
        return f"var(--{CSS_VARIABLES[match.group().lower()]})"
    except KeyError:
        raise ValueError(f"colour {match.group()} is not in memory.reporting.theme: add it there") from None


def _shorter(match: re.Match[str]) -> str:
    """Two decimals of a pixel are finer than any screen; the file halves."""
    return f"{float(match.group()):.2f}".rstrip("0").rstrip(".")
