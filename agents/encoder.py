"""The state encoder: from named features to a unit vector of 256 float32, and to a regime.

Features are standardised (median and robust standard deviation, clipped, weighted) and mapped by random Fourier
features (Rahimi & Recht 2007): cosine similarity of two vectors approximates a Gaussian kernel of the distance of the
standardised features, so that neighbours stay neighbours. The frequencies lie in orthogonal blocks (Yu et al. 2016) and
are equally long, which makes the map of small distances nearly exact.

Where the fit is given what followed its states, features weigh by how much they told about it (`outcome_weights`):
states are then near one another in what matters for what comes next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.candles import FloatArray, IntArray
from agents.catalogue import FEATURE_NAMES, FEATURES, QUOTE_FEATURES
from agents.regimes import RegimeLabels, RegimeRule, rounded
from memory.errors import EncoderError
from memory.records import IDENTIFIER_PATTERN, VECTOR_DIMENSION
from memory.validation import validate_timestamp

FORMAT = 2
"""Version of the JSON layout and of the arithmetic behind it."""
FEATURE_CLIP = 4.0
"""Standardised features beyond this many robust standard deviations count as this, so that no single one decides."""
DEFAULT_BANDWIDTH_FACTOR = 1.0
"""Kernel bandwidth in median distances of the fitted states."""
IMPORTANCE_POWER = 0.5
"""Weight of a feature = its importance to this power: at 1 noise in it decides too much, at 0 nothing is learned."""
OUTCOME_PENALTY = 0.02
"""Added to the diagonal of the features' correlation matrix in the regressions of importance: twins share theirs."""
OUTCOME_TAIL = 0.01
"""Share of the outcomes at each end that counts as no further out: a few jumps must not choose the features."""
_MEDIAN_SAMPLE = 2_000
_TILE = 256
"""Rows that are encoded at a time; their intermediate arrays stay in the processor's cache."""
_IQR_OF_NORMAL = 1.349

VectorArray = npt.NDArray[np.float32]


class StateEncoder:
    """Features to unit vectors and regimes; fitted once, then fixed.

    Parameters
    ----------
    name
        First part of the encoder's id; lower-case letters, digits and '-'.
    bandwidth_factor
        Kernel bandwidth in median distances of the fitted states. Larger keeps far states apart better, smaller near
        ones.
    random_state
        Seed of the frequencies, and of the sample that the median distance is taken from.

    Attributes
    ----------
    id_
        Name and a hash of all that was fitted: the same id means the same vectors and regimes.
    fitted_until_
        No data from this time on went into the fit: states of earlier times must not be encoded for replays.
    feature_names_
        Features in the order of the columns.
    center_, scale_, weight_
        Median, robust standard deviation and weight of each feature, shape (n_features,). A feature that did not vary
        in the fit has weight 0. Weights are those of the catalogue times those of `outcome_weights`.
    bandwidth_
        Bandwidth of the kernel, in weighted standard deviations.
    regimes_
        The regime rule, fitted to the same states.
    """

    def __init__(
        self, name: str = "rff", *, bandwidth_factor: float = DEFAULT_BANDWIDTH_FACTOR, random_state: int = 0
    ) -> None:
        self.name = name
        self.bandwidth_factor = bandwidth_factor
        self.random_state = random_state

    def fit(self, features: FloatArray, *, fitted_until: datetime, outcomes: FloatArray | None = None) -> StateEncoder:
        """Fit to the raw features of warm states.

        Parameters
        ----------
        features
            Shape (n, len(FEATURES)), pooled over products; at least 100 rows.
        fitted_until
            Aware UTC time before which all that went into features and outcomes was known.
        outcomes
            What followed each state, shape (n, k), one column a kind of outcome, NaN where unknown: what weights are
            learned from. None leaves the weights of the catalogue.

        Raises
        ------
        EncoderError
            Too few rows, a wrong number of columns, a value that is not finite, a bad name, outcomes of other states.
        """
        features = self._checked(features)
        if outcomes is not None and (outcomes.ndim != 2 or len(outcomes) != len(features)):
            raise EncoderError(
                f"outcomes have shape {outcomes.shape} for {len(features)} states.",
                remedy="Give one row a state and one column a kind of outcome.",
            )
        if len(features) < 100:
            raise EncoderError(
                f"{len(features)} states are too few to fit an encoder to.",
                remedy="Give it at least 100, better some days of them.",
            )
        if not IDENTIFIER_PATTERN.fullmatch(self.name) or len(self.name) > 64:
            raise EncoderError(
                f"encoder name {self.name!r} is not a valid id.",
                remedy="Use at most 64 letters, digits, '.', '_' or '-'.",
            )
        self.fitted_until_ = validate_timestamp(fitted_until, "fitted_until")
        self.feature_names_ = FEATURE_NAMES
        low, center, high = np.percentile(features, [25, 50, 75], axis=0)
        scale = (high - low) / _IQR_OF_NORMAL
        varies = scale > 0
        self.center_ = rounded(center)
        self.scale_ = rounded(np.where(varies, scale, 1.0))
        self.weight_ = np.where(varies, 1.0, 0.0)
        learned = 1.0 if outcomes is None else outcome_weights(self.standardise(features), outcomes)
        self.weight_ = self.weight_ * [spec.weight for spec in FEATURES] * learned
        generator = np.random.Generator(np.random.PCG64(self.random_state))
        sample = self.standardise(features[generator.integers(0, len(features), 2 * _MEDIAN_SAMPLE)])
        distances = np.sqrt(((sample[:_MEDIAN_SAMPLE] - sample[_MEDIAN_SAMPLE:]) ** 2).sum(axis=1))
        self.bandwidth_ = float(rounded(np.maximum(self.bandwidth_factor * np.median(distances), 1e-6)))
        self.regimes_ = RegimeRule.fit(features)
        self._forget()
        return self

    def standardise(self, features: FloatArray) -> FloatArray:
        """Weighted robust standard scores, clipped; shape as `features` (n, n_features)."""
        scores = np.clip((features - self.center_) / self.scale_, -FEATURE_CLIP, FEATURE_CLIP)
        return np.asarray(scores * self.weight_)

    def transform(self, features: FloatArray) -> VectorArray:
        """Unit vectors of raw features.

        A row's vector is bit for bit the same alone and in any batch. Cost: about 10 microseconds a row.

        Parameters
        ----------
        features
            Shape (n, n_features).

        Returns
        -------
        float32 array of shape (n, 256), rows of length 1.

        Raises
        ------
        EncoderError
            Not fitted, a wrong number of columns, a value that is not finite.
        """
        self._check_fitted()
        scores = self.standardise(self._checked(features))
        out = np.empty((len(scores), VECTOR_DIMENSION), np.float32)
        half = VECTOR_DIMENSION // 2
        frequencies = self.frequencies_
        active = np.flatnonzero(self.weight_)
        for start in range(0, len(scores), _TILE):
            rows = slice(start, start + _TILE)
            # Added up feature by feature: a matrix product rounds a row alone differently than within a batch.
            angles = np.zeros((len(scores[rows]), half))
            for position, column in enumerate(active):
                angles += scores[rows, column : column + 1] * frequencies[position]
            # Cosine and sine of the same angles: the sum of their squares is exactly one a frequency.
            out[rows, :half] = np.cos(angles) * _AMPLITUDE
            out[rows, half:] = np.sin(angles) * _AMPLITUDE
        return out

    def encode(self, features: Mapping[str, float]) -> npt.NDArray[np.float32]:
        """Unit vector (256,) of one state's features by name; other names are ignored.

        Missing `QUOTE_FEATURES` are imputed by their neutral value; EncoderError where another is missing.
        """
        missing = [name for name in FEATURE_NAMES if name not in features and name not in QUOTE_FEATURES]
        if missing:
            raise EncoderError(
                f"the features lack {', '.join(missing)}.", remedy="Give all features that agents.features computes."
            )
        row = [features.get(spec.name, spec.neutral) for spec in FEATURES]
        return np.asarray(self.transform(np.array([row], dtype=np.float64))[0])

    def fit_transform(
        self, features: FloatArray, *, fitted_until: datetime, outcomes: FloatArray | None = None
    ) -> VectorArray:
        """`fit`, then `transform` of the same features."""
        return self.fit(features, fitted_until=fitted_until, outcomes=outcomes).transform(features)

    def regimes(self, features: FloatArray, decision_ms: IntArray) -> RegimeLabels:
        """Regimes of one product's decision times; see `RegimeRule.label`."""
        self._check_fitted()
        return self.regimes_.label(self._checked(features), decision_ms)

    def check_as_of(self, timestamp: datetime) -> None:
        """EncoderError where the encoder was not known yet at an aware timestamp."""
        self._check_fitted()
        if timestamp < self.fitted_until_:
            raise EncoderError(
                f"encoder {self.id_} was fitted on data up to {self.fitted_until_.isoformat()} and was not known at "
                f"{timestamp.isoformat()}.",
                remedy="Fit one on data before that time with 'coinswarm fit-encoder', or replay a later time.",
            )

    @cached_property
    def frequencies_(self) -> FloatArray:
        """Frequencies of the features that vary, shape (features with a weight, 128)."""
        self._check_fitted()
        dimension = int(np.count_nonzero(self.weight_))
        if dimension == 0:
            raise EncoderError("no feature varied in the fit.", remedy="Fit the encoder to more of the market.")
        return _orthogonal_frequencies(dimension, VECTOR_DIMENSION // 2, self.random_state) / self.bandwidth_

    @cached_property
    def id_(self) -> str:
        """Name and content hash, such as ``binance-3f2a90c1d4``."""
        content = json.dumps(self._content(), sort_keys=True).encode()
        return f"{self.name}-{hashlib.blake2b(content, digest_size=5).hexdigest()}"

    def to_json(self) -> str:
        """The fitted encoder as JSON: statistics, seed and a digest of the frequencies they lead to."""
        self._check_fitted()
        return json.dumps({"id": self.id_, **self._content()}, indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> StateEncoder:
        """Read an encoder that `save` wrote; EncoderError as `from_json`, or where there is no such file."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise EncoderError(
                f"encoder file {path} cannot be read ({error}).", remedy="Give the path of a saved encoder."
            ) from error
        return cls.from_json(text)

    @classmethod
    def from_json(cls, text: str) -> StateEncoder:
        """The encoder of `to_json`'s text.

        Raises
        ------
        EncoderError
            Not an encoder, another format, other features than this software computes, content that was changed, or
            frequencies that this machine draws differently.
        """
        try:
            data: Mapping[str, Any] = json.loads(text)
            if data["format"] != FORMAT or tuple(data["features"]) != FEATURE_NAMES:
                raise EncoderError(
                    f"encoder {data.get('id')} is of format {data['format']} with {len(data['features'])} features; "
                    f"this software has format {FORMAT} with {len(FEATURE_NAMES)}.",
                    remedy="Fit the encoder again, or use the software version that fitted it.",
                )
            encoder = cls(data["name"], bandwidth_factor=data["bandwidth_factor"], random_state=data["random_state"])
            encoder.feature_names_ = FEATURE_NAMES
            encoder.fitted_until_ = validate_timestamp(datetime.fromisoformat(data["fitted_until"]), "fitted_until")
            encoder.center_ = np.array(data["center"], dtype=np.float64)
            encoder.scale_ = np.array(data["scale"], dtype=np.float64)
            encoder.weight_ = np.array(data["weight"], dtype=np.float64)
            encoder.bandwidth_ = float(data["bandwidth"])
            encoder.regimes_ = RegimeRule.from_dict(data["regimes"])
            identity, digest = data["id"], data["frequencies"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise EncoderError(
                f"the text is not a saved encoder ({type(error).__name__}: {error}).",
                remedy="Use a file that StateEncoder.save wrote.",
            ) from error
        if digest != encoder._frequencies_digest():
            raise EncoderError(
                f"the frequencies of encoder {identity} cannot be drawn again here.",
                remedy="The file was changed, or this numpy draws other random numbers: fit the encoder again.",
            )
        if identity != encoder.id_:
            raise EncoderError(
                f"encoder {identity} does not match its content ({encoder.id_}).",
                remedy="The file was changed after it was saved: take the original, or fit the encoder again.",
            )
        return encoder

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "fitted_until": self.fitted_until_.isoformat(),
            "random_state": self.random_state,
            "bandwidth_factor": self.bandwidth_factor,
            "bandwidth": self.bandwidth_,
            "frequencies": self._frequencies_digest(),
            "features": list(self.feature_names_),
            "center": self.center_.tolist(),
            "scale": self.scale_.tolist(),
            "weight": self.weight_.tolist(),
            "regimes": self.regimes_.to_dict(),
        }

    def _frequencies_digest(self) -> str:
        return hashlib.blake2b(self.frequencies_.astype("<f8").tobytes(), digest_size=8).hexdigest()

    def _checked(self, features: FloatArray) -> FloatArray:
        values = np.asarray(features, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(FEATURES):
            raise EncoderError(
                f"features have shape {values.shape}, not (n, {len(FEATURES)}).",
                remedy="Pass the values of a FeatureTable, one row a state.",
            )
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise EncoderError(
                f"feature {FEATURE_NAMES[column]} of row {row} is {values[row, column]}.",
                remedy="Features must be finite; impute missing ones by their FeatureSpec's neutral value.",
            )
        return values

    def _check_fitted(self) -> None:
        if not hasattr(self, "regimes_"):
            raise EncoderError("the encoder is not fitted.", remedy="Call fit, or load a fitted one.")

    def _forget(self) -> None:
        for name in ("frequencies_", "id_"):
            self.__dict__.pop(name, None)


def outcome_weights(scores: FloatArray, outcomes: FloatArray) -> FloatArray:
    """Weights of features by what they told about outcomes: root mean square 1 over the features that told anything.

    The importance of a feature is the root of the sum over outcomes of its squared coefficients in ridge regressions of
    the standardised outcomes on the standardised features: the diagonal of the expected outer product of gradients (Wu,
    Guinney, Maggioni & Mukherjee, "Learning gradients: predictive models that infer geometry and statistical
    dependence", JMLR 11, 2010), with linear estimates of the gradients. An outcome counts by how well it can be
    predicted. Diagonal, because a full metric follows the regressions only, and did worse on days that came later.

    Parameters
    ----------
    scores
        Standardised features of n states, (n, n_features); a constant column gets weight 0.
    outcomes
        (n, k), NaN where unknown; a column with less than two values per feature is left out.

    Returns
    -------
    (n_features,) weights, rounded to three digits, so that no processor's last bits matter; all 1 where no outcome can
    be used. Cost: O(n n_features^2 k).
    """
    importance = np.zeros(scores.shape[1])
    for values in outcomes.T:
        known = np.isfinite(values)
        if known.sum() < 2 * scores.shape[1]:
            continue
        x, y = scores[known], values[known]
        y = np.clip(y, *np.quantile(y, [OUTCOME_TAIL, 1.0 - OUTCOME_TAIL]))
        spread = y.std()
        if not spread > 0:
            continue
        deviation = x.std(axis=0)
        x = (x - x.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
        gram = x.T @ x / len(x) + OUTCOME_PENALTY * np.eye(x.shape[1])
        # The coefficient of a unit of the score, not of its deviation.
        slope = np.linalg.solve(gram, x.T @ ((y - y.mean()) / spread) / len(x)) / np.where(
            deviation > 0, deviation, 1.0
        )
        importance += slope**2
    told = importance > 0
    if not told.any():
        return np.ones_like(importance)
    weights = importance ** (IMPORTANCE_POWER / 2)
    weights /= np.sqrt(np.mean(weights[told] ** 2))
    return np.array([float(f"{weight:.3g}") for weight in weights])


_AMPLITUDE = float(np.sqrt(2.0 / VECTOR_DIMENSION))


def _orthogonal_frequencies(dimension: int, count: int, random_state: int) -> FloatArray:
    """Frequencies of a unit Gaussian kernel, shape (dimension, count): orthogonal within blocks of `dimension`.

    PCG64 and `standard_normal` keep their streams over numpy versions. Rounding to six decimals takes away what LAPACK
    implementations differ by.
    """
    generator = np.random.Generator(np.random.PCG64(random_state))
    blocks = []
    for _ in range(-(-count // dimension)):
        q, r = np.linalg.qr(generator.standard_normal((dimension, dimension)))
        blocks.append(q * np.sign(np.diag(r)) * np.sqrt(float(dimension)))
    return np.round(np.concatenate(blocks, axis=1)[:, :count], 6)
