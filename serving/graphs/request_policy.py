"""What a request says about its policy: weights by name, and a seed that all its randomness follows from."""

from __future__ import annotations

import tensorflow as tf

from ranking.policy import BOUNDS

GOLDEN = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def chosen_weights(names: tf.Tensor, values: tf.Tensor, default: tf.Tensor) -> dict[str, tf.Tensor]:
    """Every weight of the policy: the request's where it names one, else the release's.

    Shapes: names string [P], "" = none; values f32 [P]; default f32 [W] in the order of `BOUNDS` -> {weight: f32 scalar}. Of
    a name given twice the last counts.

    Raises (in the graph, as InvalidArgumentError): a name that is no weight, or a value out of its bounds.

    Example:
        >>> from ranking.policy import Policy
        >>> default = list(Policy(mmr_lambda=0.75).weights().values())
        >>> found = chosen_weights(tf.constant(["dpp", "epsilon"]), tf.constant([0.5, 0.1]), default)
        >>> [float(found[name]) for name in ("dpp", "mmr_lambda", "creator_cap")]
        [0.5, 0.75, 0.0]
    """
    known = tf.reduce_any(names[:, None] == tf.constant(["", *BOUNDS])[None, :], axis=1)
    told = f"policy_names: must be of {', '.join(BOUNDS)}, received"
    same_length = tf.debugging.Assert(
        tf.equal(tf.size(names), tf.size(values)),
        ["policy_names, policy_values: need one value a name, received", tf.size(names), tf.size(values)],
    )
    checks = [tf.debugging.Assert(tf.reduce_all(known), [told, tf.boolean_mask(names, ~known)]), same_length]
    with tf.control_dependencies(checks):
        names, values = tf.identity(names), tf.identity(values)
    # All weights side by side: thirteen times the same few operations would cost a request more than its user tower.
    places = tf.where(names == tf.constant(list(BOUNDS))[:, None], tf.range(1, tf.size(names) + 1)[None, :], 0)
    last = tf.reduce_max(tf.pad(places, [[0, 0], [1, 0]]), axis=1)
    weights = tf.where(last > 0, tf.gather(tf.pad(values, [[1, 0]]), last), default)
    least, greatest = (tf.constant(bounds) for bounds in zip(*BOUNDS.values(), strict=True))
    within = (weights >= least) & (weights <= greatest)
    wrong = tf.argmin(tf.cast(within, tf.int32))
    rules = [f"policy_values: {name} must lie between {a:g} and {b:g}, received" for name, (a, b) in BOUNDS.items()]
    why = [tf.gather(tf.constant(rules), wrong), tf.gather(weights, wrong)]
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(within), why)]):
        return dict(zip(BOUNDS, tf.unstack(tf.identity(weights)), strict=True))


def names_weight(names: tf.Tensor, weight: str) -> tf.Tensor:
    """Whether a request names a weight, bool scalar."""
    return tf.reduce_any(names == weight)


def uniforms(seed: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Uniform numbers in [0, 1) that follow from each line's own seed: splitmix64 (Steele et al., OOPSLA 2014).

    The same seed gives the same numbers in any batch and on any machine, which no operation of TensorFlow's does: those
    draw for a whole tensor.

    Shapes: seed int64 [B], count int32 scalar -> f32 [B, count], of 24 bits each.

    Example:
        >>> a, b = uniforms(tf.constant([7, 8], tf.int64), tf.constant(3)), uniforms(tf.constant([8], tf.int64), tf.constant(2))
        >>> bool(tf.reduce_all(a[1:, :2] == b))
        True
    """
    number = tf.cast(tf.range(1, count + 1), tf.uint64) * tf.constant(GOLDEN, tf.uint64)
    # Mixed before and after, or the second number of one seed would be the first of the next.
    state = _mixed(_mixed(tf.bitcast(seed, tf.uint64))[:, None] + number[None, :])
    top = tf.bitwise.right_shift(state, tf.constant(40, tf.uint64))
    return tf.cast(tf.cast(top, tf.int32), tf.float32) / float(1 << 24)


def _mixed(state: tf.Tensor) -> tf.Tensor:
    for shift, factor in MIX:
        state = tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, tf.constant(shift, tf.uint64)))
        state = state * tf.constant(factor, tf.uint64)
    return state
