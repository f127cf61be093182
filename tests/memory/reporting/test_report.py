"""The page as a whole: complete, well formed, self-contained, safe, the same for the same data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser

import numpy as np
import pytest

from memory.records import CorrelationMemory, StrategyMemory
from memory.reporting import render_report, wording
from memory.reporting.data import Gap, LatencySeries, LineageEvent, PruneDecision, PruningReport, ReportData, StateCloud

SECTIONS = (
    "night",
    "recording",
    "history",
    "map",
    "patterns",
    "returns",
    "volatility",
    "scorecard",
    "regimes",
    "transitions",
    "strategies",
    "correlations",
    "pruning",
    "speed",
    "room",
    "run",
)
LARGEST_BYTES = 1_500_000
VOID = {"meta", "br", "rect", "line", "circle", "path", "use"}
HOSTILE = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)> $\\frac{ http://evil.example/a"


class Page(HTMLParser):
    """Reads a page and keeps what the tests ask about; fails on a tag that is closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.empty: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID and (not self.open or self.open[-1] != tag):
            return
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def _see(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href"):
                self.links.append(value or "")
            if name == "class" and value == "empty":
                self.empty.append(tag)


def only(data: ReportData, **parts: object) -> ReportData:
    """The facts of a night and the parts given; what is not asked about costs no time."""
    return ReportData(facts=data.facts, **parts)


@pytest.fixture(scope="module")
def page(full_page: str) -> str:
    return full_page


def test_every_section_is_there_and_none_is_empty_with_full_data(page: str) -> None:
    parsed = Page(page)
    assert [name for name in parsed.ids if name in SECTIONS] == list(SECTIONS)
    assert parsed.empty == []


def test_full_page_is_small_enough_to_send(page: str) -> None:
    assert len(page.encode()) < LARGEST_BYTES


def test_ids_are_unique_and_every_link_leads_to_one(page: str) -> None:
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link for link in parsed.links if link[1:] not in parsed.ids} == set()
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(parsed.ids)


def test_page_loads_nothing_and_runs_nothing(page: str) -> None:
    parsed = Page(page)
    assert all(link.startswith("#") for link in parsed.links)
    assert not {"script", "img", "link", "iframe", "object", "base", "form"} & set(parsed.tags)
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert not [name for name in parsed.attributes if name.startswith("on")]


def test_charts_use_the_page_s_colours_and_fonts_only(page: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert re.findall(r"#[0-9a-fA-F]{6}\b", drawings) == []
    assert "font-family" not in drawings
    assert "DejaVu" not in drawings
    assert "<style" not in drawings


def test_the_same_data_render_to_the_same_text(page: str, full: ReportData) -> None:
    assert render_report(full) == page


def test_rendering_leaves_matplotlib_s_settings_alone(minimal: ReportData, full: ReportData) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    render_report(only(full, nights=full.nights))
    assert dict(mpl.rcParams) == before


def test_a_run_that_left_only_its_facts_says_why_each_section_is_empty(minimal: ReportData) -> None:
    parsed = Page(render_report(minimal))
    # The plain words always speak, the run always has its facts (but no timed step), and speed has two parts.
    assert len(parsed.empty) == len(SECTIONS)
    assert [name for name in parsed.ids if name in SECTIONS] == list(SECTIONS)


@pytest.mark.parametrize("count", [0, 1, 2, 200])
def test_any_number_of_patterns_renders(report_data: Callable[..., ReportData], count: int) -> None:
    data = report_data(patterns=count)
    text = render_report(only(data, patterns=data.patterns, lineage=data.lineage, pruning=data.pruning))
    Page(text)
    shown = set(re.findall(r'<details class="pattern" id="([^"]+)"', text))
    assert len(shown) == min(25, sum(pattern.status != "faded" for pattern in data.patterns))


def test_thousands_of_patterns_are_counted_rather_than_shown(report_data: Callable[..., ReportData]) -> None:
    data = report_data(patterns=40)
    many = tuple(
        replace_pattern(pattern, f"{pattern.pattern_id}-{copy}") for copy in range(50) for pattern in data.patterns
    )
    text = render_report(replace(data, patterns=many))
    assert len(text.encode()) < LARGEST_BYTES
    assert re.search(r"[\d,]+ more are not listed here", text)


def replace_pattern(pattern, identifier: str):
    return replace(pattern, pattern_id=identifier, memory_id=identifier)


def test_a_first_night_renders_without_scorecard_and_rates(report_data: Callable[..., ReportData]) -> None:
    data = report_data(patterns=1, nights=1)
    text = render_report(only(data, nights=data.nights, scorecards=data.scorecards))
    assert "the first night has no scorecard" in text
    assert "A first night has nothing to confirm" in text
    Page(text)


def test_hostile_names_stay_text_everywhere(full: ReportData) -> None:
    data = full
    hostile = replace(
        data,
        facts=replace(
            data.facts,
            run_id=HOSTILE,
            encoder_id=HOSTILE,
            settings_hash=HOSTILE,
            source=HOSTILE,
            line=HOSTILE,
            details={HOSTILE: HOSTILE},
            steps=tuple(replace(step, name=HOSTILE) for step in data.facts.steps),
        ),
        recording=replace(
            data.recording,
            agents=(HOSTILE,),
            products=(HOSTILE,),
            dead_letter_reasons={HOSTILE: 1},
            gaps=(Gap(product_id=HOSTILE, start=data.facts.window_start, end=data.facts.window_end),),
        ),
        patterns=tuple(
            replace(
                pattern,
                description=HOSTILE,
                regime=HOSTILE,
                product_ids=(HOSTILE,),
                status=HOSTILE if index % 2 else "new",
                aliases=(HOSTILE,),
                conditions=tuple(replace(c, phrase=HOSTILE, feature=HOSTILE) for c in pattern.conditions),
                realised={HOSTILE: {HOSTILE: 1e-4}},
            )
            for index, pattern in enumerate(data.patterns)
        ),
        lineage={
            p.pattern_id: (LineageEvent(window_name=HOSTILE, event=HOSTILE, name=HOSTILE, other=HOSTILE, note=HOSTILE),)
            for p in data.patterns
        },
        prices=tuple(replace(path, product_id=HOSTILE) for path in data.prices),
        regimes=tuple(replace(memory, product_id=HOSTILE) for memory in data.regimes[:5]),
        strategies=tuple(
            replace(s, agent_id=HOSTILE, performance={HOSTILE: s.performance["ALL"], "ALL": s.performance["ALL"]})
            for s in data.strategies
        ),
        correlations=tuple(replace(c, products=(HOSTILE, HOSTILE), regime=HOSTILE) for c in data.correlations),
        nights=tuple(replace(night, window_name=HOSTILE) for night in data.nights[:1]),
        scorecards=tuple(
            replace(card, entries=tuple(replace(e, predictor=HOSTILE, outcome=HOSTILE) for e in card.entries[:4]))
            for card in data.scorecards
        ),
        pruning=PruningReport(
            decisions=(PruneDecision(memory_id=HOSTILE, kind=HOSTILE, removed=True, rules=(HOSTILE,)),)
        ),
        benchmark=replace(
            data.benchmark,
            latencies=tuple(replace(series, name=HOSTILE) for series in data.benchmark.latencies),
            bars=tuple(replace(bar, name=HOSTILE, unit=HOSTILE) for bar in data.benchmark.bars),
        ),
    )
    text = render_report(hostile)
    parsed = Page(text)
    assert not {"script", "img"} & set(parsed.tags)
    assert not [name for name in parsed.attributes if name.startswith("on")]
    assert all(link.startswith("#") for link in parsed.links)
    assert text.count("&lt;script&gt;") > 100


def section(page: str, name: str) -> str:
    """The text of one section, tags and spacing removed."""
    (found,) = re.findall(rf'<section id="{name}">(.*?)</section>', page, flags=re.DOTALL)
    return " ".join(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", found, flags=re.DOTALL).split())


def test_a_strategy_shows_what_luck_leaves_of_it_beside_what_it_was(page: str, full: ReportData) -> None:
    text, strategy = section(page, "strategies"), full.strategies[0]
    figures = strategy.performance["ALL"]
    assert f"{wording.number(figures.shrunk_sharpe_ratio, 1)} {wording.number(figures.sharpe_ratio, 1)}" in text
    assert f"{strategy.agent_id} trending 37 %" in text
    assert "Raw and shrunk Sharpe ratio of 5 agents, beside the limit of 1" in page


def test_a_strategy_that_was_not_judged_has_no_random_share(full: ReportData) -> None:
    text = section(render_report(only(full, strategies=full.strategies[:1])), "strategies")
    assert f"{full.strategies[0].agent_id} trending –" in text


def test_a_correlation_shows_its_q_value_and_whether_it_is_claimed(page: str) -> None:
    text = section(page, "correlations")
    assert text.count("q 0.004 ✓") == 18
    assert text.count("q 0.21 ") == 6
    assert "q 0.21 ✓" not in text
    assert text.rstrip().endswith("0.031")


def test_a_pruning_decision_shows_the_share_of_random_sets_that_pass(page: str, full: ReportData) -> None:
    assert "8 %" in section(page, "pruning").split("What stays")[1]


def test_lineage_says_who_was_met_against_which_threshold(page: str, full: ReportData) -> None:
    assert (
        "2021-06-21 confirmed 24 0.9712 0.8901 nearer than 95 % of the random balls that match"
        in section(page, "patterns")
    )  # fmt: skip


def test_a_long_lineage_keeps_its_beginning_and_its_end(full: ReportData) -> None:
    pattern = full.patterns[0]
    events = tuple(LineageEvent(window_name=f"night-{number}", event="confirmed") for number in range(50))
    text = section(render_report(only(full, patterns=(pattern,), lineage={pattern.pattern_id: events})), "patterns")
    shown = [number for number in range(50) if f"night-{number} " in text]
    assert shown == [0, *range(11, 50)]
    assert "10 events between the first and these" in text


def test_pattern_ids_with_odd_characters_make_working_anchors(full: ReportData) -> None:
    patterns = (replace_pattern(full.patterns[0], 'p "<odd> #1'),)
    parsed = Page(render_report(only(full, patterns=patterns)))
    assert "pattern-p---odd---1" in parsed.ids


def test_numbers_that_could_not_be_computed_are_dashes(full: ReportData) -> None:
    pattern = full.patterns[0]
    outcomes = tuple(
        replace(o, interval=None, q_value=None, gross_sharpe=None, net_sharpe=None) for o in pattern.outcomes
    )
    bare = replace(pattern, status="new", outcomes=outcomes, volatility=(), conditions=(), description="")
    data = only(full, patterns=(bare,))
    text = render_report(data)
    Page(text)
    assert ">None<" not in text
    assert ">nan" not in text


def test_pattern_without_outcomes_is_still_listed(full: ReportData) -> None:
    bare = replace(full.patterns[0], status="new", outcomes=(), volatility=())
    text = render_report(only(full, patterns=(bare,)))
    assert "no outcomes yet" in text
    assert "No current pattern has outcomes" in text


def test_prices_with_holes_and_of_one_state_render(full: ReportData) -> None:
    path = full.prices[0]
    price = path.price.copy()
    price[100:200] = np.nan
    single = replace(path, timestamp_ms=path.timestamp_ms[:1], price=path.price[:1], regimes=path.regimes[:1])
    unknown = replace(single, price=np.array([np.nan]))
    none = replace(single, timestamp_ms=path.timestamp_ms[:0], price=path.price[:0], regimes=())
    Page(render_report(only(full, prices=(replace(path, price=price), single, unknown, none))))


def test_a_map_without_states_and_states_without_patterns_render(full: ReportData) -> None:
    Page(render_report(only(full, patterns=full.patterns)))
    empty = StateCloud(vectors=np.empty((0, 256), dtype=np.float32), regimes=())
    Page(render_report(only(full, states=empty, patterns=full.patterns[:1])))


def test_single_latency_and_equal_latencies_render(full: ReportData) -> None:
    latencies = (
        LatencySeries(name="one", samples_ms=np.array([0.4])),
        LatencySeries(name="equal", samples_ms=np.full(9, 0.2)),
    )
    Page(render_report(only(full, benchmark=replace(full.benchmark, latencies=latencies))))


def test_agents_without_performance_leave_an_empty_section(full: ReportData) -> None:
    strategies: tuple[StrategyMemory, ...] = tuple(replace(s, performance={}) for s in full.strategies)
    assert "No strategy has been judged" in render_report(only(full, strategies=strategies))


def test_only_claimed_leads_are_listed(full: ReportData) -> None:
    lead = next(memory for memory in full.correlations if memory.lag)
    unclaimed: CorrelationMemory = replace(lead, claimed=False)
    simultaneous = tuple(memory for memory in full.correlations if memory.lag == 0)
    text = render_report(only(full, correlations=(*simultaneous, unclaimed)))
    assert "No lead or lag is claimed" in text
    assert "Who leads" in render_report(only(full, correlations=full.correlations))


def test_a_negative_lag_names_the_second_product_as_leader(full: ReportData) -> None:
    lead = next(memory for memory in full.correlations if memory.lag)
    text = render_report(only(full, correlations=(replace(lead, lag=-2),)))
    row = text[text.index("Who leads") :]
    assert row.index(lead.products[1]) < row.index(lead.products[0])


def test_a_dry_run_says_so(full: ReportData) -> None:
    text = render_report(only(full, pruning=replace(full.pruning, dry_run=True)))
    assert "A dry run: nothing was removed." in text


def test_gaps_are_listed_with_their_length(full: ReportData) -> None:
    start = full.facts.window_start
    gaps = tuple(Gap(product_id="BTC-USD", start=start, end=start + timedelta(minutes=433)) for _ in range(45))
    text = render_report(only(full, recording=replace(full.recording, gaps=gaps)))
    assert "7.2 h" in text
    assert "5 more are not listed" in text
