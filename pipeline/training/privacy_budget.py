"""How much noise a promise of privacy needs, and how much of the promise is spent, by Google's accountant."""

from __future__ import annotations

import math
from typing import Any

from pipeline.stage import StageError

INTERVAL = 1e-3
"""Steps in which the accountant keeps the distribution of the loss of privacy. It rounds up; finer steps save .03 % of the
noise and take ten times as long."""
TOLERANCE = 1e-3
LEAST_NOISE = 0.1
"""In units of the clip, that is looked at."""


def noise_multiplier(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The least noise, in units of the clip, with which `steps` steps are (epsilon, delta) private.

    Neighbours are data sets of which one holds a user more, and every step draws every user by itself with the chance
    `sampling_rate` (Poisson sampling); the steps compose by their privacy loss distribution (Koskela et al., *Computing
    Tight Differential Privacy Guarantees Using FFT*, AISTATS 2020). `dp_accounting` does all of it.

    Raises:
        ModuleNotFoundError: the accountant is not installed. StageError: so large an epsilon that it asks for next to no noise.

    Example:
        >>> from pipeline.training.privacy_budget import epsilon_spent
        >>> noise = noise_multiplier(3.0, 1e-3, 0.5, 10)
        >>> 2.99 < epsilon_spent(noise, 1e-3, 0.5, 10) <= 3.0
        True
    """
    accounting = _accounting()
    try:
        multiplier = accounting.calibrate_dp_mechanism(
            _fresh,
            lambda noise: _event(noise, sampling_rate, steps),
            epsilon,
            delta,
            bracket_interval=accounting.LowerEndpointAndGuess(LEAST_NOISE, 2.0),
            tol=TOLERANCE,
        )
    except accounting.mechanism_calibration.NoBracketIntervalFoundError as error:
        raise StageError(
            f"retrieval.privacy.epsilon: {epsilon:g} asks for less noise than {LEAST_NOISE:g} of the clip, which protects "
            "nobody; choose 1 to 10, or 0 for no privacy"
        ) from error
    return float(multiplier)


def epsilon_spent(noise: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The epsilon of so many steps at a delta; infinite without noise.

    Example:
        >>> epsilon_spent(1.0, 1e-3, 0.1, 0), epsilon_spent(0.0, 1e-3, 0.1, 1)
        (0.0, inf)
    """
    if not steps:
        return 0.0
    if not noise:
        return math.inf
    accountant = _fresh()
    accountant.compose(_event(noise, sampling_rate, steps))
    return float(accountant.get_epsilon(delta))


def delta_of(delta: float | str, users: int) -> float:
    """The chance that a setting means: "auto" is 1 / users, rounded down to one digit.

    Example:
        >>> delta_of("auto", 2500), delta_of("auto", 3000), delta_of(1e-6, 3000)
        (0.0004, 0.0003, 1e-06)
    """
    if not isinstance(delta, str):
        return delta
    power = 10.0 ** math.floor(math.log10(1 / users) + 1e-9)
    return float(f"{math.floor(1 / users / power + 1e-9) * power:.0e}")


def _event(noise: float, sampling_rate: float, steps: int) -> Any:
    accounting = _accounting()
    step = accounting.PoissonSampledDpEvent(sampling_rate, accounting.GaussianDpEvent(noise))
    return accounting.SelfComposedDpEvent(step, steps)


def _fresh() -> Any:
    from dp_accounting.pld import PLDAccountant

    return PLDAccountant(_accounting().NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=INTERVAL)


def _accounting() -> Any:
    try:
        import dp_accounting
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"retrieval.privacy: needs the package dp-accounting, which is missing ({error}); "
            f"pip install -r requirements-privacy.txt"
        ) from error
    return dp_accounting
