"""The item of a history that a candidate is most like, one per modality: "sounds like", "looks like", "reads like"."""

from __future__ import annotations

from keras import ops

from ranking.stored_rows import take_rows

NOTHING = -2.0
"""Below every cosine: history items that cannot be compared stand last."""


def nearest_history(tokens, present, history_rows, candidate_rows):
    """Per modality the history item whose token has the largest cosine with the candidate's.

        nearest_m = argmax over l of <c_m, h_lm>,  among history items other than the candidate that have modality m

    Tokens are unit vectors. Of equals the most recent is taken.

    Shapes: tokens [N + 1, M, D], present [N + 1, M], history_rows [B, L] (0 = none, L may be 0), candidate_rows [B, K] ->
    rows int [B, K, M] and cosines f32 [B, K, M]; row 0 and cosine 0 where the candidate or the history lacks the
    modality.

    Example:
        >>> import numpy as np
        >>> tokens = np.array([[[0, 0]], [[1, 0]], [[0, 1]], [[0.8, 0.6]]], np.float32)
        >>> rows, cosines = nearest_history(tokens, np.array([[0], [1], [1], [1]], np.float32), [[2, 1]], [[3]])
        >>> np.asarray(rows).tolist(), np.asarray(cosines).round(2).tolist()
        ([[[1]]], [[[0.800000011920929]]])
    """
    history_rows, candidate_rows = ops.convert_to_tensor(history_rows), ops.convert_to_tensor(candidate_rows)
    if not tokens.shape[1]:  # no modality to compare by
        none = ops.zeros((*ops.shape(candidate_rows), 0), "float32")
        return ops.cast(none, history_rows.dtype), none
    # A column of "nothing" at the end, so that a history without items has an answer too.
    history_rows = ops.pad(history_rows, ((0, 0), (0, 1)))
    theirs, ours = take_rows(tokens, candidate_rows), take_rows(tokens, history_rows)
    there = take_rows(present, candidate_rows) * ops.cast(candidate_rows > 0, "float32")[..., None]
    usable = take_rows(present, history_rows) * ops.cast(history_rows > 0, "float32")[..., None]
    other = ops.cast(candidate_rows[:, :, None] != history_rows[:, None, :], "float32")[..., None]
    comparable = there[:, :, None] * usable[:, None] * other  # [B, K, L + 1, M]
    cosine = ops.einsum("bkmd,blmd->bklm", theirs, ours)
    cosine = ops.where(comparable > 0, cosine, ops.zeros_like(cosine) + NOTHING)
    place = ops.argmax(cosine, axis=2)  # [B, K, M]
    found = ops.max(cosine, axis=2)
    some = found > NOTHING
    shape = ops.shape(cosine)
    lines = ops.broadcast_to(history_rows[:, None, :], (shape[0], shape[1], shape[2]))
    rows = ops.take_along_axis(lines, place, axis=2)
    return ops.where(some, rows, ops.zeros_like(rows)), ops.where(some, found, ops.zeros_like(found))
