"""Which events train, which choose the model and which test it. Plain functions from arrays to split codes.

All return int8 [E] with the codes of `data.schema` (0 train, 1 valid, 2 test).
"""

from __future__ import annotations

import numpy as np

from data.schema import TEST, TRAIN, VALID
from data.validation import DatasetError

DAY = 86_400
OUTLIER_SHARE, ENOUGH = 0.001, 100
"""Events at each end of time that do not count for the span, at least one of `ENOUGH`: one event dated 1970 must not move every
boundary."""
FEW_AHEAD, AHEAD_SHARE = 10, 1e-5
"""Events that may be ahead of a log: ten, of a large one so many of all, and never more than one in `ENOUGH`."""
USUAL_DAYS, USUAL_GAPS, LEAST_AHEAD = 28, 2, DAY // 4
"""Ahead is what a silence parts from the rest that is twice as long as any of four weeks, and six hours at least."""


def newest_time(timestamps: np.ndarray) -> int:
    """The time of the last event, but for few that a wrong clock has put far ahead of all others, in UTC seconds.

    Days are counted back from here: one event dated tomorrow would leave the newest day empty. The last events (`FEW_AHEAD`)
    are ahead where the gap before them is longer than `USUAL_GAPS` times the longest gap of the `USUAL_DAYS` days before, and
    than `LEAST_AHEAD`. A log of fewer than `ENOUGH` events in these days says too little of what is usual, and its last event
    counts, as it does in every log whose gaps are what they have been: a share of the events set aside, as for
    `global_time_bounds`, would move the end of each.

    Example:
        >>> hourly = np.arange(200) * 3600
        >>> [newest_time(np.r_[hourly, hourly[-1] + hours * 3600]) // 3600 for hours in (1, 6, 7)]
        [200, 205, 199]
    """
    times = np.asarray(timestamps)
    most = min(max(FEW_AHEAD, int(AHEAD_SHARE * len(times))), len(times) // ENOUGH)
    if not most:
        return int(times.max())
    settled = np.partition(times, -most - 1)[-most - 1]
    late = np.sort(times[times > settled])
    usual = np.sort(times[(times <= settled) & (times > settled - USUAL_DAYS * DAY)])
    if len(usual) < ENOUGH or not len(late):
        return int(times.max())
    bound = max(USUAL_GAPS * int(np.diff(usual).max()), LEAST_AHEAD)
    ahead = np.flatnonzero(np.diff(late, prepend=settled) > bound)
    return int([settled, *late][ahead[0]] if len(ahead) else late[-1])



def global_time_bounds(timestamps: np.ndarray, valid_fraction: float, test_fraction: float) -> tuple[int, int]:
    """The two moments that part train from validation and validation from test, in UTC seconds.

    With the span [a, b] of the events (0.1 % at each end aside, of a hundred at least one), in whole days when it is at least
    ten days long: test begins at b - test_fraction (b - a) and validation at b - (valid_fraction + test_fraction)(b - a).
    Fractions are of time, not of events, so that a window is a period ("the last two weeks") however busy it was.

    Returns:
        (valid_start, test_start): train < valid_start <= valid < test_start <= test.
    """
    check_fractions(valid_fraction, test_fraction)
    if not len(timestamps):
        raise DatasetError("timestamps: a split by time needs events, received none.")
    ordered = np.sort(timestamps)
    aside = max(int(OUTLIER_SHARE * len(ordered)), int(len(ordered) >= ENOUGH))
    first, last = int(ordered[aside]), int(ordered[len(ordered) - 1 - aside])
    unit = DAY if last - first >= 10 * DAY else 1
    first, end = first // unit, last // unit + 1
    test_start = end - max(1, round(test_fraction * (end - first)))
    valid_start = test_start - max(1, round(valid_fraction * (end - first)))
    return valid_start * unit, test_start * unit


def global_time(timestamps: np.ndarray, valid_fraction: float, test_fraction: float) -> np.ndarray:
    """Split by two moments common to all users: nothing later than a test event is ever trained on.

    Example:
        >>> global_time(np.arange(10), 0.2, 0.2).tolist()
        [0, 0, 0, 0, 0, 0, 1, 1, 2, 2]
    """
    valid_start, test_start = global_time_bounds(timestamps, valid_fraction, test_fraction)
    split = np.full(len(timestamps), TRAIN, np.int8)
    split[timestamps >= valid_start] = VALID
    split[timestamps >= test_start] = TEST
    return split


def leave_last_out(users: np.ndarray, timestamps: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Each user's last positive event tests and the one before validates; users with fewer than three only train.

    Events that are not positive go where their moment lies: what a user skipped after the validation event must not be
    trained on. Ties in time keep the input order.

    Args:
        users: int [E]. timestamps: int [E]. positive: bool [E].

    Example:
        >>> leave_last_out(np.zeros(4, int), np.array([4, 1, 3, 2]), np.ones(4, bool)).tolist()
        [2, 0, 1, 0]
    """
    order = np.lexsort((timestamps, users))
    who, liked = users[order], positive[order]
    if not len(who):
        return np.zeros(0, np.int8)
    starts = np.flatnonzero(np.r_[True, who[1:] != who[:-1]])
    lengths = np.diff(np.r_[starts, len(who)])
    total = np.repeat(np.add.reduceat(liked.astype(np.int64), starts), lengths)
    running = np.cumsum(liked)
    before = np.repeat(running[starts] - liked[starts], lengths)
    rank = running - before  # 1 at the user's first positive event, kept by the events after it
    ordered = np.where(total < 3, TRAIN, np.where(rank >= total, TEST, np.where(rank >= total - 1, VALID, TRAIN)))
    split = np.empty(len(who), np.int8)
    split[order] = ordered
    return split


def random_split(
    users: np.ndarray, items: np.ndarray, valid_fraction: float, test_fraction: float, *, seed: int
) -> np.ndarray:
    """A seeded random split of (user, item) pairs; all events of a pair go together, so no pair is on two sides.

    Example:
        >>> split = random_split(np.zeros(10, int), np.arange(10), 0.2, 0.3, seed=1)
        >>> np.bincount(split).tolist()
        [5, 2, 3]
    """
    check_fractions(valid_fraction, test_fraction)
    if not len(users):
        return np.zeros(0, np.int8)
    pair = users.astype(np.int64) * (int(items.max()) + 1) + items
    distinct, of_event = np.unique(pair, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(distinct))
    test, valid = round(test_fraction * len(distinct)), round(valid_fraction * len(distinct))
    code = np.full(len(distinct), TRAIN, np.int8)
    code[shuffled[:test]] = TEST
    code[shuffled[test : test + valid]] = VALID
    return code[of_event]


def check_fractions(valid_fraction: float, test_fraction: float) -> None:
    """Refuse fractions that leave nothing to train on.

    Raises:
        DatasetError: one is negative, or both together reach 1.
    """
    if not (0 <= valid_fraction < 1 and 0 <= test_fraction < 1 and valid_fraction + test_fraction < 1):
        raise DatasetError(
            "valid_fraction, test_fraction: must not be negative and must stay below 1 together, received "
            f"{valid_fraction} and {test_fraction}."
        )


def core(users: np.ndarray, items: np.ndarray, positive: np.ndarray, k: int) -> np.ndarray:
    """bool [E]: the events of the k-core, the largest part in which each user and item has at least k positive events.

    Removing one item can push a user below k and so on; repeated until nothing changes. k = 0 keeps everything.

    Example:
        >>> core(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 1]), np.ones(5, bool), 2).tolist()
        [True, True, True, True, False]
    """
    if k < 0:
        raise DatasetError(f"k_core: must be 0 (off) or more, received {k}.")
    keep = np.ones(len(users), np.bool_)
    if k == 0 or not len(users):
        return keep
    while True:
        counted = keep & positive
        strong_user = np.bincount(users[counted], minlength=int(users.max()) + 1) >= k
        strong_item = np.bincount(items[counted], minlength=int(items.max()) + 1) >= k
        smaller = keep & strong_user[users] & strong_item[items]
        if smaller.sum() == keep.sum():
            return keep
        keep = smaller
