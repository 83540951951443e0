"""Alignment and reconstruction: what an item's modalities owe to each other and to the vector they are fused into."""

from __future__ import annotations

from keras import ops

from towers.fusion import unit_length
from towers.losses import MASKED_LOGIT, accidental_hits


def info_nce_loss(left, right, *, rows, both, temperature: float):
    """Each item's vector in one modality must find its vector in another among the items of the batch, both ways.

    Formula: with unit vectors a, b and `l_ij = a_i . b_j / t`, `L = mean_{i in both} (lse_j l_ij + lse_j l_ji - 2 l_ii) /
    2` over the j that have both modalities and are not the same item as i. Radford et al., *Learning Transferable Visual
    Models From Natural Language Supervision*, ICML 2021; van den Oord et al. 2018.

    Shapes: left, right [B, D], rows [B] int, both [B] bool -> scalar; 0 where no item has both.

    Example:
        >>> eye = ops.eye(2)
        >>> loss = info_nce_loss(eye, eye, rows=ops.array([1, 2]), both=ops.array([True, True]), temperature=1.0)
        >>> round(float(loss), 4)
        0.3133
    """
    logits = ops.matmul(unit_length(left), ops.transpose(unit_length(right))) / temperature
    own = ops.eye(ops.shape(rows)[0], dtype="bool")
    # The diagonal stays finite for items without both, which count for nothing below.
    out = ops.logical_or(accidental_hits(rows), ops.logical_and(ops.logical_not(both)[None, :], ops.logical_not(own)))
    forth = ops.logsumexp(ops.where(out, MASKED_LOGIT, logits), axis=-1)
    back = ops.logsumexp(ops.where(out, MASKED_LOGIT, ops.transpose(logits)), axis=-1)
    return masked_mean(0.5 * (forth + back) - ops.diagonal(logits), both)


def inner_product_loss(left, right, *, both):
    """The plain inner product of an item's vectors in two modalities, of unit length, as something to raise.

    Formula: `L = mean_{i in both} (1 - a_i . b_i)`. No other item pushes back, so it is for small weights.

    Shapes: left, right [B, D], both [B] bool -> scalar; 0 where no item has both.
    """
    return masked_mean(1.0 - ops.sum(unit_length(left) * unit_length(right), axis=-1), both)


def reconstruction_loss(predicted, features, *, present):
    """What the fused vector tells of a modality's standardised features.

    Formula: `L = mean_{i present} |predicted_i - features_i|^2`. Features have a total variance of 1, so that 1 is what
    predicting their mean costs. Ngiam et al., *Multimodal Deep Learning*, ICML 2011.

    Shapes: predicted, features [B, R], present [B] bool -> scalar; 0 where no item is present.
    """
    return masked_mean(ops.sum(ops.square(predicted - features), axis=-1), present)


def masked_mean(values, mask):
    """Mean of the values [B] where mask [B] (bool or weights) says so; 0 where it never does.

    Example:
        >>> float(masked_mean(ops.array([1.0, 5.0]), ops.array([True, False])))
        1.0
    """
    weights = ops.cast(mask, values.dtype)
    return ops.sum(values * weights) / ops.maximum(ops.sum(weights), 1e-9)
