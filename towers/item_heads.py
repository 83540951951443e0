"""Further tasks of the item tower: to tell an item's categories, and how it was received."""

from __future__ import annotations

from keras import ops

from towers.alignment import masked_mean


def category_loss(logits, codes):
    """Which categories an item has, each a yes or no.

    Formula: `L = mean_i sum_c softplus(l_ic) - y_ic l_ic` over the items with a category; y is 1 for the codes that the
    item has. Code 0 means none.

    Shapes: logits [B, C] (class c is code c + 1), codes [B, K] int, padded with 0 -> scalar.

    Example:
        >>> round(float(category_loss(ops.zeros((1, 2)), ops.array([[1, 0, 0]]))), 4)
        1.3863
    """
    hot = ops.max(ops.one_hot(codes, logits.shape[-1] + 1, dtype=logits.dtype), axis=1)[:, 1:]
    per_item = ops.sum(ops.softplus(logits) - hot * logits, axis=-1)
    return masked_mean(per_item, ops.any(codes > 0, axis=-1))


def sentiment_loss(predicted, sentiment, *, known):
    """How an item was received: `L = mean_{i known} (predicted_i - sentiment_i)^2`, sentiment in deviations from the mean.

    Shapes: predicted [B], sentiment [B], known [B] bool -> scalar; 0 where nothing is known.
    """
    return masked_mean(ops.square(predicted - sentiment), known)
