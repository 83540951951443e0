"""What training found out beside a network's weights, as weights of a layer: the served graph is the same whatever it is."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from ranking.calibration import apply_table, calibration_table, kind_of
from ranking.config import RankerSpec
from ranking.tables import INTEGERS, typical_rows


class FittedNumbers(keras.layers.Layer):
    """Standardisation of retrieval scores, calibrations, weights of the score, and the rows of typical items, as vectors.

    Vectors, since a release may round matrices. They follow from a form's description, so the layer saves nothing.

    Args:
        spec: of the trained ranker. calibrations: head -> calibration, see `ranking.calibration`. score_weights: head ->
            weight, a number for every head that has a calibration. blend: weight of the standardised retrieval score.

    Attributes:
        typical: int [T], see `ranking.tables.typical_rows`.

    Example:
        >>> from data.schema import Schema
        >>> spec = RankerSpec(Schema(user_rows=2, item_rows=9), score_center=2.0, score_scale=0.5, heads=("click",))
        >>> fitted = FittedNumbers(spec, {"click": {"kind": "platt", "slope": 1.0, "intercept": 0.0}}, {"click": 1.0}, 0.1)
        >>> np.asarray(fitted.standardised(np.array([2.0, 3.0], "float32"))).tolist()
        [0.0, 2.0]
    """

    def __init__(
        self, spec: RankerSpec, calibrations: dict[str, dict], score_weights: dict[str, float], blend: float, **kwargs
    ):
        super().__init__(trainable=False, **kwargs)
        self.domains, self.kinds = spec.domains, {head: kind_of(one) for head, one in calibrations.items()}
        weights = np.array([score_weights[head] for head in calibrations])
        self.shares = self._kept("shares", (weights / (np.abs(weights).sum() or 1.0)).astype(np.float32))
        self.scores = self._kept("scores", np.array([spec.score_center, spec.score_scale, blend], np.float32))
        self.typical = self._kept("typical", typical_rows(spec.schema.item_rows))
        tables = {head: calibration_table(one, max(self.domains, 1)) for head, one in calibrations.items()}
        self.tables = {head: self._kept(f"calibration_{head}", table.reshape(-1)) for head, table in tables.items()}
        self.built = True

    def _kept(self, name: str, values: np.ndarray):
        dtype = INTEGERS if values.dtype.kind == "i" else "float32"
        weight = self.add_weight(
            shape=values.shape, dtype=dtype, initializer="zeros", trainable=False, autocast=False, name=name
        )
        weight.assign(values)
        return weight

    @property
    def center(self):
        """Mean of the retrieval scores in training lists."""
        return self.scores[0]

    def standardised(self, scores):
        """(s - mean) / standard deviation, of any shape."""
        return (scores - self.scores[0]) / self.scores[1]

    def probability(self, head: str, logits, domain):
        """Calibrated probabilities of a head's logits for items of the given domains, all of one shape."""
        table = ops.reshape(self.tables[head], (max(self.domains, 1), -1))
        return apply_table(logits, self.kinds[head], table, domain if self.domains else None)

    def score(self, probabilities, standardised):
        """`ranking.score.weighted_score` of {head: [B, K]} and standardised retrieval scores [B, K], of every head."""
        score = self.scores[2] * standardised
        for place, head in enumerate(self.kinds):
            score = score + probabilities[head] * self.shares[place]
        return score

    def save_own_variables(self, store):
        """Nothing: see the class."""

    def load_own_variables(self, store):
        """Nothing: see the class."""
