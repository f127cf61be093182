"""The vectors of states: their type, their length, and the distance between them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

VECTOR_DIMENSION = 256
UNIT_TOLERANCE = 1e-3
"""Largest deviation of a vector's length from 1; float32 and float16 rounding stay well below it."""
LARGEST_COSINE_DISTANCE = 2.0
"""1 - cosine of opposite vectors; as a reach it bounds nothing."""
