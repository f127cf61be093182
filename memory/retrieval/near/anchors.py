"""Anchors among the rows, and the bound on a cosine that follows: for states that lie in groups in all directions.

Where vectors differ in every direction no few of them tell rows apart (`basis`), but rows may still lie around a few
hundred points. Each row x then knows the anchor a nearest to it, its cosine u with it, and the length v of the rest:
x = u a + r, |r| = v. For a unit query q = c a + s the cosine is c u + r.s, which by Cauchy-Schwarz is at most
c u + |s| v: the triangle inequality on the sphere. The cosines with all anchors are one small product; then every row
takes two numbers of its anchor and two of its own. The answer is exact whatever the anchors. Bounds by pivots: LAESA
(Mico et al. 1994); for cosines: Schubert, "A Triangle Inequality for Cosine Similarity", SISAP 2021.

Anchors have to cover all groups, small ones too, which drawing them at once would not. They are drawn in rounds, each
among the rows that those before left uncovered (successive sampling: Mettu and Plaxton, "Optimal Time Bounds for
Approximate Clustering", UAI 2002); one step of Lloyd's method then moves each to the middle of its rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memory.retrieval.near.basis import Floats, margin, query_weights

Positions = npt.NDArray[np.int64]

ANCHORED_FROM = 2048
"""Rows of an agent from which anchors are tried; fewer are all scored in less than 0.1 ms."""
UNEXPLAINED = 0.5
"""Mean length of the rests from which anchors are tried. Real states leave 0.26; vectors around 100 centres in
256 dimensions 0.78, around 500 centres 0.9, and vectors in all directions 0.94."""
FIT_ROWS = 16_384
"""Rows that anchors are fitted to and tried on, evenly spread."""
ROWS_AN_ANCHOR = 8
MOST_ANCHORS = 2048
"""Two limits on the number of anchors: the cosines with them must cost little beside those with all rows."""
DRAWN_A_ROUND = 128
COVERED = 0.6
"""Cosine with an anchor from which a row counts as covered. Below, what is left of it is longer than 0.8, and its bound
is below the cosines of near rows for hardly any question."""
GAINED_AN_ANCHOR = 2
"""Rows that an anchor of a round must newly cover, itself among them; where it is fewer there are no more groups."""
TRIED_QUESTIONS = 32
TRIED_TOP_K = 10
FEW_LEFT = 1 / 16
"""Share of rows left by the basis up to which nothing better is looked for."""
GAIN = 4
"""How many times fewer rows anchors must leave than the basis does to be kept."""
WORTH_KEEPING = 1 / 8
"""Share of rows left up to which anchors are kept: taking more rows one by one costs half of scoring all."""
_ROWS_AT_ONCE = 1024
_SEED = 20020801


class AnchoredRows(NamedTuple):
    """Of each row the number of its nearest anchor, its cosine with it, and the length of what is left; shapes (n,)."""

    anchors: Positions
    cosines: Floats
    rests: Floats


def choose_anchors(vectors: Floats, heads: Floats, rests: Floats, basis: Floats, step: int = 1) -> Floats | None:
    """Anchors of an agent's rows, where they rule out much more than the basis does; None where they do not.

    Parameters
    ----------
    vectors
        Rows at unit length, shape (n, dimension).
    heads, rests
        What `basis.split` makes of them; shapes (n, rank) and (n,).
    basis
        Orthonormal rows, shape (rank, dimension).
    step
        How many rows of the agent each of these stands for.

    Notes
    -----
    Deterministic. Some of the rows are asked as questions, and what either bound leaves to score is counted.

    At most n * k * dimension multiplications for each of three passes with k anchors: 0.2 s for 10,000 rows of 256
    dimensions in 500 groups, about 0.7 s for as many rows and anchors as are ever tried, on one core. A few
    milliseconds where the basis is good enough; 0.1 s where rows lie in no groups, as the first round then
    covers hardly more than it drew.
    """
    generator = np.random.default_rng(_SEED)
    asked = generator.choice(len(vectors), min(TRIED_QUESTIONS, len(vectors)), replace=False)
    cosines = np.matmul(vectors[asked], vectors.T)
    wanted = min(1 + -(-(TRIED_TOP_K - 1) // step), len(vectors))  # The row that asks, and its share of the others.
    floors = np.partition(cosines, -wanted, axis=1)[:, -wanted] - 2 * margin(vectors.shape[1])
    rows = np.concatenate((heads, rests[:, None]), axis=1)
    by_basis = np.stack([rows @ query_weights(vectors[number], basis) for number in asked])
    left_by_basis = float((by_basis >= floors[:, None]).mean())
    if left_by_basis <= FEW_LEFT:
        return None
    anchors = fit_anchors(vectors, generator, step)
    placed = split_by_anchors(vectors, anchors)
    by_anchors = np.stack([anchored_bounds(vectors[number], anchors, *placed) for number in asked])
    left = float((by_anchors >= floors[:, None]).mean())
    return anchors if left <= min(WORTH_KEEPING, left_by_basis / GAIN) else None


def fit_anchors(vectors: Floats, generator: np.random.Generator, step: int = 1) -> Floats:
    """Anchors of some unit vectors: unit vectors, each the nearest of at least one of them; shape (k, dimension).

    Parameters
    ----------
    vectors
        Shape (n, dimension), n > 0.
    generator
        Draws anchors; the same vectors and draws give the same anchors.
    step
        How many rows of the agent each vector stands for.
    """
    most = max(1, min(MOST_ANCHORS, len(vectors) * step // ROWS_AN_ANCHOR))
    drawn = np.empty(0, dtype=np.int64)
    uncovered = np.arange(len(vectors))
    while len(uncovered) and len(drawn) < most:
        new = generator.choice(uncovered, min(DRAWN_A_ROUND, most - len(drawn), len(uncovered)), replace=False)
        drawn = np.concatenate((drawn, new))
        before = len(uncovered)
        best = _nearest(vectors[uncovered], vectors[new])[1]
        # What was drawn is covered whatever rounding makes of its cosine with itself, so that rounds come to an end.
        uncovered = np.setdiff1d(uncovered[best < COVERED], new, assume_unique=True)
        if before - len(uncovered) < GAINED_AN_ANCHOR * len(new):
            break
    return _moved_to_the_middle(vectors, vectors[np.sort(drawn)])


def sample_step(count: int) -> int:
    """Every how manieth of so many rows anchors are fitted to."""
    return max(1, -(-count // FIT_ROWS))


def split_by_anchors(vectors: Floats, anchors: Floats) -> AnchoredRows:
    """Nearest anchors of unit vectors, and how they lie to them.

    What is left is formed and measured, as `basis.split` does. Cost: n * k * dimension multiplications, which let other
    threads run; 20 microseconds for one vector and 700 anchors of 256 dimensions.
    """
    nearest, cosines = _nearest(vectors, anchors)
    rests = np.empty(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        here = slice(start, start + _ROWS_AT_ONCE)
        left = vectors[here] - anchors[nearest[here]] * cosines[here, None]
        rests[here] = np.sqrt(np.einsum("ij,ij->i", left, left))
    return AnchoredRows(nearest, cosines, rests)


def anchored_bounds(query: Floats, anchors: Floats, nearest: Positions, cosines: Floats, rests: Floats) -> Floats:
    """Upper bounds of the cosines of some rows with a unit query; too low by no more than `basis.margin`.

    Where `rests` holds `basis.NO_ROW`, the bound lies below every cosine.
    """
    near = np.matmul(anchors, query)
    # The allowance is that of `basis.query_weights`.
    far = np.sqrt(np.maximum(np.float32(1.0) - near * near, np.float32(0.0)) + np.float32(margin(len(query))))
    bounds: Floats = near.take(nearest, mode="clip")  # They are in range; this only spares the check.
    bounds *= cosines
    others = far.take(nearest, mode="clip")
    others *= rests
    bounds += others
    return bounds


def _nearest(vectors: Floats, anchors: Floats) -> tuple[Positions, Floats]:
    """Numbers of the nearest anchors, of equally near ones the first, and the cosines with them."""
    nearest = np.empty(len(vectors), dtype=np.int64)
    cosines = np.empty(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        here = slice(start, start + _ROWS_AT_ONCE)
        each = np.matmul(vectors[here], anchors.T)
        nearest[here] = best = each.argmax(axis=1)
        cosines[here] = np.take_along_axis(each, best[:, None], axis=1)[:, 0]
    return nearest, cosines


def _moved_to_the_middle(vectors: Floats, anchors: Floats) -> Floats:
    """One step of Lloyd's method on the sphere; anchors that are nearest to no vector are left out."""
    nearest, cosines = _nearest(vectors, anchors)
    order = np.argsort(nearest, kind="stable")
    used, starts = np.unique(nearest[order], return_index=True)
    middles = np.add.reduceat(vectors[order], starts, axis=0, dtype=np.float64)
    # Along the anchor the sum is as long as the sum of the cosines. Where that is little, as where vectors lie opposite
    # to each other, it has no direction worth having, and the anchor stays.
    along = np.add.reduceat(cosines[order], starts)
    steady = along > 0.1 * np.diff(starts, append=len(order))
    middles[~steady] = anchors[used[~steady]]
    moved: Floats = (middles / np.sqrt(np.einsum("ij,ij->i", middles, middles))[:, None]).astype(np.float32)
    return moved
