"""AdamW with one learning rate for the towers and others for the encoders, on one schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras


class TwoRateAdamW(keras.optimizers.AdamW):
    """AdamW whose step is scaled for some variables.

    Formula: `w <- w - ratio_w * lr(t) * m / (sqrt(v) + eps)`, ratio 1 for the towers and encoder rate / tower rate for
    an encoder's weights, so that warm-up and cosine decay hold for both. Weight decay is for the towers alone: an
    encoder is not pulled towards zero, away from what it was pretrained to. Paper: Loshchilov and Hutter, *Decoupled
    Weight Decay Regularization*, ICLR 2019.

    Args:
        learning_rate: of the towers, a number or a schedule.
        ratios: lists of variables with their ratio.
        accumulation: steps whose gradients are averaged before the weights move; learning-rate schedules go on
            counting every step.

    Raises:
        ValueError: a ratio that is not positive.

    Example:
        >>> tower, encoder = keras.Variable([1.0]), keras.Variable([1.0])
        >>> optimizer = TwoRateAdamW(0.1, ratios=[([encoder], 0.01)], weight_decay=0.0)
        >>> optimizer.apply([keras.ops.ones(1), keras.ops.ones(1)], [tower, encoder])
        >>> round(float(tower[0]), 4), round(float(encoder[0]), 4)
        (0.9, 0.999)
    """

    def __init__(
        self,
        learning_rate,
        *,
        ratios: Sequence[tuple[Sequence[keras.Variable], float]],
        weight_decay: float,
        global_clipnorm: float | None = None,
        accumulation: int = 1,
    ):
        super().__init__(
            learning_rate,
            weight_decay=weight_decay,
            global_clipnorm=global_clipnorm,
            gradient_accumulation_steps=accumulation if accumulation > 1 else None,
        )
        table: Mapping[int, float] = {
            self._var_key(variable): float(ratio) for group, ratio in ratios for variable in group
        }
        if any(ratio <= 0 for ratio in table.values()):
            raise ValueError(f"ratios: must be positive, received {[ratio for _, ratio in ratios]}")
        # Behind a function, because Keras would wrap a plain dict for saving.
        self._ratio_of = lambda variable: table.get(self._var_key(variable), 1.0)
        self.exclude_from_weight_decay([variable for group, _ in ratios for variable in group])

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate * self._ratio_of(variable))
