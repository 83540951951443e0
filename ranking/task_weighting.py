"""How much each head's loss counts: fixed weights, weights by uncertainty, or weights that balance gradients."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops


class TaskWeighting(keras.layers.Layer):
    """One loss out of one loss per head, with weights w_h that start as given.

        fixed:        sum_h w_h L_h
        uncertainty:  sum_h w_h exp(-u_h) L_h + u_h / 2,  u_h learned   (Kendall et al., CVPR 2018, for classification)
        gradnorm:     sum_h a_h L_h + sum_h |a_h n_h - target_h|        (Chen et al., ICML 2018)
                      target_h = mean_g(a_g n_g) (r_h / mean_g r_g)^alpha,  r_h = L_h / L_h at the first step

    In GradNorm a_h = sum(w) softmax(v)_h is learned by its second term alone, and the losses by the first; n_h is the norm
    of the gradient of L_h that reaches what the heads share, taken as given. Here n_h is taken at the heads' input and not
    at the last shared weights (see `shared_gradient_norm`), as Sener & Koltun (NeurIPS 2018) do.

    Args:
        kind: "fixed", "uncertainty" or "gradnorm". weights: head -> w_h, positive. alpha: of GradNorm, how strongly a head
            that learns slowly is preferred.

    Shapes: `call(losses {head: scalar}, norms {head: scalar}) -> scalar`; only GradNorm reads `norms`.

    Raises:
        ValueError: an unknown kind, or a weight that is not positive.

    Example:
        >>> losses = {"click": ops.convert_to_tensor(2.0), "like": ops.convert_to_tensor(1.0)}
        >>> float(TaskWeighting("fixed", {"click": 1.0, "like": 0.5})(losses, {}))
        2.5
    """

    def __init__(self, kind: str, weights: dict[str, float], alpha: float = 1.5, **kwargs):
        super().__init__(**kwargs)
        if kind not in ("fixed", "uncertainty", "gradnorm"):
            raise ValueError(f"kind must be 'fixed', 'uncertainty' or 'gradnorm', received {kind!r}")
        if not weights or min(weights.values()) <= 0:
            raise ValueError(f"weights must be positive, at least one, received {weights}")
        self.kind, self.alpha = kind, float(alpha)
        self.names = tuple(weights)
        self.start = np.array(list(weights.values()), np.float32)
        if kind == "uncertainty":
            self.uncertainty = self.add_weight((len(weights),), initializer="zeros", name="uncertainty")
        if kind == "gradnorm":
            self.balance = self.add_weight((len(weights),), initializer="zeros", name="balance")
            self.balance.assign(np.log(self.start))
            self.first = self.add_weight((len(weights),), initializer="zeros", trainable=False, name="first_losses")
        self.built = True

    def weights_now(self):
        """The weight of each head's loss, [H] in the order of `names`."""
        if self.kind == "uncertainty":
            return self.start * ops.exp(-self.uncertainty)
        if self.kind == "gradnorm":
            return float(self.start.sum()) * ops.softmax(self.balance)
        return ops.convert_to_tensor(self.start)

    def call(self, losses, norms):
        stacked = ops.stack([losses[name] for name in self.names])
        weights = self.weights_now()
        if self.kind == "uncertainty":
            return ops.sum(weights * stacked + self.uncertainty / 2.0)
        if self.kind == "fixed":
            return ops.sum(weights * stacked)
        current = ops.stop_gradient(stacked)
        first = ops.convert_to_tensor(self.first)
        first = ops.where(first > 0, first, current)
        self.first.assign(first)
        lengths = weights * ops.stop_gradient(ops.stack([norms[name] for name in self.names]))
        rates = current / ops.maximum(first, 1e-6)
        rates = rates / ops.maximum(ops.mean(rates), 1e-6)
        target = ops.stop_gradient(ops.mean(lengths) * ops.power(rates, self.alpha))
        return ops.sum(ops.stop_gradient(weights) * stacked) + ops.sum(ops.abs(lengths - target))


def shared_gradient_norm(logits, labels, weight, kernel):
    """Norm of the gradient of a weighted cross-entropy at the input of its linear head.

        |dL/dx| = |dL/ds| |w|,  dL/ds_i = m_i (sigma(s_i) - y_i) / max(1, sum_j m_j),  s = x w

    Shapes: logits, labels, weight m [B, K]; kernel w [E, 1] -> scalar.
    """
    error = ops.where(weight > 0, ops.sigmoid(logits) - labels, 0.0) * weight
    length = ops.sqrt(ops.sum(ops.square(error))) / ops.maximum(ops.sum(weight), 1.0)
    return length * ops.sqrt(ops.sum(ops.square(kernel)))
