"""The Gaussian mechanism on gradients: what one user can add to a step is bounded, and the bound is drowned in noise."""

from __future__ import annotations

from keras import ops


def clip_factors(gradients, clip: float):
    """What each user's gradient is multiplied by, so that none is longer than `clip`.

    Formula: `min(1, C / |g_u|)`. Shapes: gradients [U, P] -> [U].

    Example:
        >>> factors = clip_factors(ops.array([[3.0, 4.0], [0.0, 0.5], [0.0, 0.0]]), 1.0)
        >>> ops.convert_to_numpy(factors).astype(float).round(3).tolist()
        [0.2, 1.0, 1.0]
    """
    lengths = ops.sqrt(ops.sum(ops.square(gradients), axis=-1))
    return ops.minimum(1.0, clip / ops.maximum(lengths, 1e-12))


def clipped_sum(gradients, clip: float):
    """The sum of all users' gradients, each clipped: with one user more or less it moves by at most `clip`.

    Formula: `sum_u min(1, C / |g_u|) g_u`. Shapes: gradients [U, P] -> [P].

    Example:
        >>> ops.convert_to_numpy(clipped_sum(ops.array([[3.0, 4.0], [0.0, 0.5]]), 1.0)).astype(float).round(3).tolist()
        [0.6, 1.3]
    """
    return ops.matmul(clip_factors(gradients, clip)[None, :], gradients)[0]


def noisy_mean(total, noise, *, clip: float, noise_multiplier: float, users: float):
    """The private gradient of a step.

    Formula: `(sum_u clip(g_u) + sigma C z) / U`, z standard normal and U the number of users a step has on average, which
    is fixed beforehand: the number that a step really has would tell whether somebody is among them. Abadi et al., *Deep
    Learning with Differential Privacy*, CCS 2016; users as the unit: McMahan et al., *Learning Differentially Private
    Recurrent Language Models*, ICLR 2018.

    Shapes: total, noise [P] -> [P].

    Example:
        >>> mean = noisy_mean(ops.array([4.0]), ops.array([-1.0]), clip=0.5, noise_multiplier=2.0, users=10.0)
        >>> round(float(mean[0]), 3)
        0.3
    """
    return (total + noise_multiplier * clip * noise) / users
