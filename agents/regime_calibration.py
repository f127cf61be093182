"""How sure one may be of a regime: probabilities fitted to the past, from the rule's label and the remembered states.

The rule's label of a decision is the mode of the half-hour before it, so it is sure of what has been. What an agent
needs is the regime that it acts in. Two things say more about that than the label: the rule's candidate of the moment,
which the label lags behind, and memory: what became, half an hour later, of the remembered states that are most like
this one.

`RegimeCalibration` joins them in a multinomial logistic regression with two targets: the rule's label 30 minutes later
(*ahead*), and the label of windows centred on the decision, which only hindsight has (*hindsight*). Each is fitted with
the vote of memory and without it, so that a thin memory has calibrated probabilities as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.candles import FloatArray
from agents.regimes import RULE_VERSION, rounded
from memory.errors import EncoderError, InvalidQueryError
from memory.records import REGIMES
from memory.validation import validate_timestamp

CALIBRATION_VERSION = "1"
"""Changes whenever the same rows would give other probabilities."""
AHEAD_MINUTES = 30
"""How far ahead the rule's label is foretold: the span of its votes, so that the two labels share none of them."""
LONGEST_DWELL_MINUTES = 100.0
"""A regime that has lasted longer counts as this: what a snapshot of 100 bars of a minute can tell."""
SHARE_BOUND = 0.02
"""Shares of the rule's vote are kept this far from 0 and 1, where their log odds end."""
VOTE_FLOOR = 0.01
"""Added to memory's shares before their logarithm is taken: a regime that no neighbour met is rare, not impossible."""
RIDGE = 1.0
"""Penalty on the squared weights, in rows: enough to hold what a rare regime leaves undecided."""
NEWTON_STEPS = 50
NEWTON_TOLERANCE = 1e-9
LEAST_ROWS = 500
"""Rows below which nothing is fitted: half a week of one product at one row in ten minutes."""

Codes = npt.NDArray[np.int64]
TARGETS = ("ahead", "hindsight")


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationRows:
    """What was known at some decisions, and what came of them; arrays of n rows.

    Attributes
    ----------
    timestamp_ms
        Decisions, milliseconds since 1970.
    rule, share
        The rule's label (code into `REGIMES`) and its share of the rule's vote.
    dwell_minutes
        How long the label had lasted.
    candidate
        The rule's candidate of the moment, without hysteresis.
    vote
        Shares of the regimes that the nearest remembered states were in `AHEAD_MINUTES` later, shape (n, 5).
    voting_days
        UTC days that those states come from; 0 without any.
    ahead, hindsight
        The targets: the rule's label `AHEAD_MINUTES` later, and that of centred windows; -1 where it is not known.
    """

    timestamp_ms: Codes
    rule: Codes
    share: FloatArray
    dwell_minutes: FloatArray
    candidate: Codes
    vote: FloatArray
    voting_days: Codes
    ahead: Codes
    hindsight: Codes

    def __len__(self) -> int:
        return len(self.timestamp_ms)

    def where(self, mask: npt.NDArray[np.bool_]) -> CalibrationRows:
        """Some of the rows."""
        return CalibrationRows(**{item.name: getattr(self, item.name)[mask] for item in fields(self)})

    @classmethod
    def joined(cls, parts: list[CalibrationRows]) -> CalibrationRows:
        """Rows of several products, one after the other."""
        return cls(**{item.name: np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(cls)})


class RegimeCalibration:
    """Probabilities of the regimes, given what the rule and the memory say.

    Attributes
    ----------
    fitted_until_
        No label from this time on went into the fit; it is refused for earlier decisions.
    rows_
        Rows that it was fitted to.
    ahead_, hindsight_
        Weights for each target with memory's vote, shape (26, 5).
    ahead_rule_, hindsight_rule_
        Weights without it, shape (21, 5).
    """

    def fit(self, rows: CalibrationRows, *, fitted_until: datetime, min_days: int) -> RegimeCalibration:
        """Fit to past rows; about a second for 20,000.

        Parameters
        ----------
        rows
            Rows whose labels were all known before `fitted_until`. A row without a label in one target is left out of
            its fit, one whose voting states come from fewer than `min_days` days out of the fits with a vote.
        fitted_until
            Aware UTC time.
        min_days
            As the agent's: from how many days the voting states must come for memory's word to count.

        Raises
        ------
        EncoderError
            Too few rows.
        """
        self.fitted_until_ = validate_timestamp(fitted_until, "fitted_until")
        self.rows_ = len(rows)
        told = rows.voting_days >= min_days
        for target in TARGETS:
            labels = getattr(rows, target)
            known = labels >= 0
            for name, mask, vote in ((f"{target}_", known & told, True), (f"{target}_rule_", known, False)):
                if mask.sum() < LEAST_ROWS:
                    raise EncoderError(
                        f"{mask.sum()} rows are too few to calibrate {name.rstrip('_')} on.",
                        remedy=f"Give it at least {LEAST_ROWS}, better some weeks of several products.",
                    )
                chosen = rows.where(mask)
                inputs = _inputs(
                    chosen.rule, chosen.share, chosen.dwell_minutes, chosen.candidate, chosen.vote if vote else None
                )
                setattr(self, name, rounded(_fit_multinomial(inputs, labels[mask])))
        self.__dict__.pop("id_", None)
        return self

    def probabilities(
        self,
        rule: Codes,
        share: FloatArray,
        dwell_minutes: FloatArray,
        candidate: Codes,
        vote: FloatArray | None,
        *,
        target: str = "ahead",
    ) -> FloatArray:
        """Probability of each regime, shape (n, 5), rows summing to 1; arguments as in `CalibrationRows`.

        Parameters
        ----------
        vote
            None where memory is not asked.
        target
            ``ahead`` or ``hindsight``.
        """
        if target not in TARGETS:
            raise InvalidQueryError(
                f"target {target!r} is not known.", remedy=f"Use {' or '.join(TARGETS)}.", argument="target"
            )
        weights: FloatArray = getattr(self, f"{target}_" if vote is not None else f"{target}_rule_")
        return _softmax(_scores(_inputs(rule, share, dwell_minutes, candidate, vote), weights))

    def check_as_of(self, timestamp: datetime) -> None:
        """EncoderError where the calibration was not known yet at an aware timestamp."""
        if timestamp < self.fitted_until_:
            raise EncoderError(
                f"regime calibration {self.id_} was fitted on labels until {self.fitted_until_.isoformat()} and was "
                f"not known at {timestamp.isoformat()}.",
                remedy="Fit one on the past of what is replayed with agents.regime_history.fit_calibration, or pass "
                "calibration=None for the rule's own share of the vote.",
            )

    @cached_property
    def id_(self) -> str:
        """Version and content hash, such as ``regimes-1-3f2a90c1d4``."""
        content = json.dumps(self._content(), sort_keys=True).encode()
        return f"regimes-{CALIBRATION_VERSION}-{hashlib.blake2b(content, digest_size=5).hexdigest()}"

    def to_json(self) -> str:
        """The calibration as JSON."""
        return json.dumps({"id": self.id_, **self._content()}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RegimeCalibration:
        """The calibration of `to_json`'s text; EncoderError where it is none, was changed, or is of another version."""
        try:
            data: Mapping[str, Any] = json.loads(text)
            if (data["version"], data["rule"], tuple(data["regimes"])) != (CALIBRATION_VERSION, RULE_VERSION, REGIMES):
                raise EncoderError(
                    f"regime calibration {data.get('id')} is of version {data['version']} for rule {data['rule']}; "
                    f"this software has version {CALIBRATION_VERSION} for rule {RULE_VERSION}.",
                    remedy="Fit it again with agents.regime_history.fit_calibration.",
                )
            found = cls()
            found.fitted_until_ = validate_timestamp(datetime.fromisoformat(data["fitted_until"]), "fitted_until")
            found.rows_ = int(data["rows"])
            for name in _WEIGHTS:
                setattr(found, name, np.array(data["weights"][name], dtype=np.float64))
            identity = data["id"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise EncoderError(
                f"the text is no regime calibration ({type(error).__name__}: {error}).",
                remedy="Use a file that RegimeCalibration.to_json gave.",
            ) from error
        if identity != found.id_:
            raise EncoderError(
                f"regime calibration {identity} does not match its content ({found.id_}).",
                remedy="The file was changed after it was saved: take the original, or fit it again.",
            )
        return found

    def _content(self) -> dict[str, Any]:
        return {
            "version": CALIBRATION_VERSION,
            "rule": RULE_VERSION,
            "regimes": list(REGIMES),
            "fitted_until": self.fitted_until_.isoformat(),
            "rows": self.rows_,
            "weights": {name: getattr(self, name).tolist() for name in _WEIGHTS},
        }


_WEIGHTS = tuple(f"{target}{suffix}" for target in TARGETS for suffix in ("_", "_rule_"))


@cache
def default_calibration() -> RegimeCalibration:
    """The calibration that ships: fitted on Bitfinex, three products, April and May 2018, known from 2018-06-01 on."""
    return RegimeCalibration.from_json((Path(__file__).parent / "data" / "regime-calibration.json").read_text("utf-8"))


def _inputs(
    rule: Codes, share: FloatArray, dwell_minutes: FloatArray, candidate: Codes, vote: FloatArray | None
) -> FloatArray:
    """Inputs of the regression, shape (n, 26), or (n, 21) without a vote."""
    one = np.eye(len(REGIMES))
    label = one[rule]
    bounded = np.clip(share, SHARE_BOUND, 1.0 - SHARE_BOUND)
    columns = [
        np.ones((len(rule), 1)),
        label,
        label * np.log(bounded / (1.0 - bounded))[:, None],
        label * np.log1p(np.minimum(dwell_minutes, LONGEST_DWELL_MINUTES))[:, None],
        one[candidate],
    ]
    if vote is not None:
        columns.append(np.log(vote + VOTE_FLOOR))
    return np.concatenate(columns, axis=1)


def _scores(inputs: FloatArray, weights: FloatArray) -> FloatArray:
    """Added up input by input: a matrix product may round one row alone differently than within a batch."""
    scores = np.zeros((len(inputs), weights.shape[1]))
    for column in range(inputs.shape[1]):
        scores += inputs[:, column : column + 1] * weights[column]
    return scores


def _softmax(scores: FloatArray) -> FloatArray:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _fit_multinomial(inputs: FloatArray, labels: Codes) -> FloatArray:
    """Weights (n_inputs, 5) of a multinomial logistic regression with a ridge penalty, by Newton's method.

    The penalised likelihood is strictly concave, so that its maximum is found wherever one starts, and to the last
    digit kept on any machine. Steps are halved where they would lower it.
    """
    n, width = inputs.shape
    classes = len(REGIMES)
    target = np.eye(classes)[labels]
    weights = np.zeros((width, classes))
    value = _likelihood(inputs, labels, weights)
    for _ in range(NEWTON_STEPS):
        chances = _softmax(inputs @ weights)
        gradient = inputs.T @ (target - chances) - RIDGE * weights
        hessian = np.empty((classes, width, classes, width))
        for one in range(classes):
            for other in range(one, classes):
                factor = chances[:, one] * ((one == other) - chances[:, other])
                block = inputs.T @ (factor[:, None] * inputs)
                hessian[one, :, other, :] = block
                hessian[other, :, one, :] = block.T
        flat = hessian.reshape(classes * width, classes * width)
        flat[np.diag_indices_from(flat)] += RIDGE
        step = np.linalg.solve(flat, gradient.T.ravel()).reshape(classes, width).T
        size = 1.0
        while (found := _likelihood(inputs, labels, weights + size * step)) < value and size > NEWTON_TOLERANCE:
            size /= 2.0
        weights = weights + size * step
        if found - value <= NEWTON_TOLERANCE * n:
            break
        value = found
    return weights


def _likelihood(inputs: FloatArray, labels: Codes, weights: FloatArray) -> float:
    """Penalised log likelihood."""
    scores = inputs @ weights
    top = scores.max(axis=1)
    chosen = scores[np.arange(len(labels)), labels] - top - np.log(np.exp(scores - top[:, None]).sum(axis=1))
    return float(chosen.sum() - 0.5 * RIDGE * (weights**2).sum())
