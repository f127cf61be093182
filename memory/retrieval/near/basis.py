"""A few directions that hold most of what a set of vectors differs in, and the bound on a cosine that follows.

Split every unit vector x into its part along the rows of an orthonormal basis B and the rest r: x = B'h + r. Then for a
unit query q = B'g + s the cosine is h.g + r.s, which by Cauchy-Schwarz is at most h.g + |r||s|. That upper bound needs
a handful of numbers a row instead of hundreds; only rows whose bound reaches the k-th best cosine found so far can be
among the k nearest, so only those are scored in full. The answer is exact whatever the basis; a good one (the leading
eigenvectors of the second moments) prunes more. Exact inner product search with such bounds: LEMP (Teflioudi et al.,
SIGMOD 2015), FEXIPRO (Li et al., SIGMOD 2017).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

RANK = 24
"""Directions kept. In scopes of 1,800 of 21,600 real states of 256 dimensions 16 leave 80 rows to score in full, 24
leave 45, 32 leave 30; a pass over the bounds takes 6, 8 and 10 microseconds. 24 take the least time together."""
FIT_ROWS = 4096
"""Rows that a basis is fitted on, evenly spread; more change it little."""
NO_ROW = -1e30
"""In place of the length of the rest where there is no row: its bound lies below every cosine."""


def margin(dimension: int) -> float:
    """How far rounding in float32 may take a bound or a cosine from its true value.

    A dot product of unit vectors of d float32 numbers is off by at most about d * 2^-24 (Higham, Accuracy and Stability
    of Numerical Algorithms, section 3.1). A bound is made of up to four such products: head, rest, and the two mixed
    terms that vanish only for a perfectly orthonormal basis.
    """
    return 4.0 * dimension * 2.0**-24


def fit_basis(vectors: Floats, rank: int = RANK) -> Floats:
    """The leading eigenvectors of the second moments of some vectors; orthonormal rows, shape (rank, dimension).

    Parameters
    ----------
    vectors
        Shape (n, dimension); at most `FIT_ROWS` of them are used.
    rank
        Directions wanted; never more than dimensions.

    Notes
    -----
    Deterministic. About 15 ms for 256 dimensions, most of it the eigenvectors; releases the interpreter lock.
    """
    step = max(1, len(vectors) // FIT_ROWS)
    sample = vectors[::step].astype(np.float64)
    _, directions = np.linalg.eigh(sample.T @ sample)
    return np.ascontiguousarray(directions[:, ::-1][:, : min(rank, vectors.shape[1])].T, dtype=np.float32)


def split(vectors: Floats, basis: Floats) -> tuple[Floats, Floats]:
    """Heads (n, rank) and lengths of the rests (n,) of unit vectors.

    The rest is formed and measured, not derived from the head's length: the difference of two numbers near 1 would lose
    half of its digits, and the bound with them.
    """
    heads = vectors @ basis.T
    rests = vectors - heads @ basis
    return heads, np.sqrt(np.einsum("ij,ij->i", rests, rests))


def query_weights(query: Floats, basis: Floats) -> Floats:
    """What the columns (head, length of rest) of each row are multiplied with for its bound; shape (rank + 1,)."""
    weights = np.empty(len(basis) + 1, dtype=np.float32)
    head = np.matmul(basis, query, out=weights[:-1])
    # The allowance covers the rounding of the difference; it also keeps the rest above 0, so that a row that is not
    # there (`NO_ROW`) never competes.
    weights[-1] = math.sqrt(max(0.0, 1.0 - float(head @ head)) + margin(len(query)))
    return weights
