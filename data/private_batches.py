"""Batches of users drawn by Poisson sampling, as differentially private training takes them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from data.batches import Batch, filled_up
from data.histories import Histories

RAGGED_USERS = {name: 0 for name in ("user", "target", "history", "weight")}
"""Arrays whose length differs from batch to batch, and along which axis: what `pipeline.training.feed.as_dataset` takes."""


class PrivateBatches:
    """Every user comes into a batch by a draw of their own, whatever the others drew, and brings a bounded number of events.

    That is what an accountant of Poisson sampling assumes: a batch holds `users_per_batch` users on average, none at all
    now and then, and no batch is cut or filled up with further users. Of a user with more than `events_per_user` positive
    events a random choice comes, each with the history before it; a user without events is drawn like the others and adds
    nothing. Padding is user 0 with weight 0, up to a multiple of `block`.

    Args:
        histories: positive training events.
        users: n, how many users there are, in rows 1 to n; a public number.
        users_per_batch: of the n, on average.
        events_per_user: K. history_length: L.
        ordered: whether timestamps order the events. If not, a history is a random set of the user's other items.
        entropy: whole numbers that decide every draw. Whoever knows them can take the noise away again: keep them secret.
        block: batches are padded to a multiple of it.
        noise_width: P, standard normal draws that come with each batch, for the gradients' noise.

    Arrays of a batch, with U users: user [U], target [U, K], history [U, K, L] (item rows, most recent first), weight
    [U, K] float32 of ones and zeros, noise [P] float32.

    Raises:
        ValueError: more users a batch than there are.

    Example:
        >>> histories = Histories.from_events(np.array([1, 1, 2]), np.array([3, 4, 5]), np.arange(3), user_rows=3)
        >>> settings = {"events_per_user": 2, "history_length": 1, "ordered": True, "block": 4, "noise_width": 0}
        >>> batches = PrivateBatches(histories, users=2, users_per_batch=2, entropy=(7,), **settings)
        >>> batch = next(batches.epoch(0))
        >>> batches.sampling_rate, batch["user"].tolist(), batch["target"][1:].tolist(), batch["weight"].sum(axis=1).tolist()
        (1.0, [1, 2, 0, 0], [[5, 0], [0, 0], [0, 0]], [2.0, 1.0, 0.0, 0.0])
    """

    def __init__(
        self,
        histories: Histories,
        *,
        users: int,
        users_per_batch: int,
        events_per_user: int,
        history_length: int,
        ordered: bool,
        entropy: tuple[int, ...],
        block: int,
        noise_width: int,
    ):
        if users_per_batch > users:
            raise ValueError(
                f"users_per_batch: must be at most the number of users, {users}, received {users_per_batch}; lower "
                f"retrieval.batch_size, which counts users under retrieval.privacy"
            )
        self.histories, self.users, self.ordered, self.entropy = histories, users, ordered, entropy
        self.events_per_user, self.history_length = events_per_user, history_length
        self.sampling_rate = users_per_batch / users
        self.block, self.noise_width = block, noise_width

    def __len__(self) -> int:
        """Batches in which a user is met once on average."""
        return max(1, round(1 / self.sampling_rate))

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Batches from step `start` on; each depends on (entropy, number, step) alone."""
        for step in range(start, len(self)):
            yield self._batch(np.random.default_rng([*self.entropy, number, step]))

    def _batch(self, rng: np.random.Generator) -> Batch:
        drawn = 1 + np.flatnonzero(rng.random(self.users) < self.sampling_rate)
        noise = rng.standard_normal(self.noise_width, np.float32)
        histories = self.histories if self.ordered else self.histories.shuffled(rng)
        sizes = histories.offsets[drawn + 1] - histories.offsets[drawn]
        drawn, sizes = drawn[sizes > 0], sizes[sizes > 0]
        # All events of the users drawn, each user's in a random order; the first K of each stay.
        owner = np.repeat(np.arange(len(drawn)), sizes)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        positions = (histories.offsets[drawn][owner] + place)[np.lexsort((rng.random(len(owner)), owner))]
        kept = place < self.events_per_user
        owner, place, positions = owner[kept], place[kept], positions[kept]
        choose = histories.places_before if self.ordered else histories.places_of_others
        shape = (len(drawn), self.events_per_user)
        target, weight = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        history = np.zeros((*shape, self.history_length), np.int32)
        target[owner, place], weight[owner, place] = histories.items[positions], 1.0
        history[owner, place] = histories.items_at(choose(positions, self.history_length))
        spare = max(math.ceil(len(drawn) / self.block), 1) * self.block - len(drawn)
        arrays = {"user": drawn.astype(np.int32), "target": target, "history": history, "weight": weight}
        return {**{name: filled_up(values, spare) for name, values in arrays.items()}, "noise": noise}
