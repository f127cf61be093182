"""What a report shows of an archived window is what the whole window would give."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np

from memory.records import from_ms
from tasks import report_material
from tasks.report_material import cloud_of, gaps_of, prices_of, read_lived


def test_it_is_that_of_the_whole_window(days: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(report_material, "CLOUD_STATES", 17)
    days.record(0)
    days.record(0, agent="other", product="Q", count=40)
    days.consolidate(0)
    archive, window = days.workspace.archive, days.window(0)
    (lived,) = read_lived(archive, days.ledger, days.workspace.namespace, window, "enc").values()
    whole = archive.read(lived.reference)
    assert lived.agents == whole.experiences.agents == ("other", "scout")
    assert lived.reference.experiences.rows == len(whole.experiences)
    assert lived.states.vectors.size == 0
    rows = np.unique(np.linspace(0, len(whole.states) - 1, 17).round().astype(np.int64))
    cloud = cloud_of(archive, lived)
    np.testing.assert_array_equal(cloud.vectors, whole.states.take(rows).vectors)
    assert cloud.regimes == tuple(whole.states.take(rows).regime_names)
    for path, product in zip(prices_of(lived.states), ("P", "Q"), strict=True):
        own = whole.states.take(whole.states.product == whole.states.products.index(product))
        assert path.product_id == product
        np.testing.assert_array_equal(path.price, own.price)
        np.testing.assert_array_equal(path.timestamp_ms, own.timestamp_ms)


def test_gaps_are_longer_than_what_ends_an_episode(days: Any, lived_on: Any) -> None:
    experiences = lived_on(0, count=40)  # one every four minutes
    days.store([item for number, item in enumerate(experiences) if number not in (5, 20, 21)])
    days.consolidate(0)
    lived = read_lived(
        days.workspace.archive, days.ledger, days.workspace.namespace, days.window(0), experiences[0].encoder_id
    )
    start = days.window(0).start
    assert [(gap.start, gap.end) for gap in gaps_of(lived)] == [
        (start + timedelta(minutes=16), start + timedelta(minutes=24)),
        (start + timedelta(minutes=76), start + timedelta(minutes=88)),
    ]
    assert from_ms(int(next(iter(lived.values())).states.timestamp_ms[0])) == start
