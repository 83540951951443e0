"""Federated averaging: a server that learns weights from the changes that devices send, and sees no event."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

Weights = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Update:
    """All that leaves a device in a round.

    Attributes:
        change: of the shared weights, by the device's own training. events: how many events it rests on.
    """

    change: Weights
    events: int

    @property
    def bytes(self) -> int:
        """What is sent: the change, and the count as eight bytes."""
        return bytes_of(self.change) + 8


LocalTraining = Callable[[Weights], Update]
"""A device: the server's weights in, the update out; its events are its own."""


def mean_change(updates: Sequence[Update]) -> Weights:
    """The mean of the changes, each counting by its events.

    Formula: `sum_k n_k d_k / sum_k n_k`. McMahan et al., *Communication-Efficient Learning of Deep Networks from
    Decentralized Data*, AISTATS 2017.

    Raises:
        ValueError: no update rests on any event.

    Example:
        >>> mean_change([Update([np.array([1.0])], 1), Update([np.array([5.0])], 3)])[0].tolist()
        [4.0]
    """
    total = sum(update.events for update in updates)
    if not total:
        raise ValueError(f"updates: at least one must rest on events, received {len(updates)} without any; sample more clients")
    shares = [update.events / total for update in updates]
    # In double precision, so that the order in which devices answer does not matter to the weights in single precision.
    sums = [
        sum(share * part.astype(np.float64) for share, part in zip(shares, parts, strict=True))
        for parts in zip(*(update.change for update in updates), strict=True)
    ]
    return [np.asarray(part, first.dtype) for part, first in zip(sums, updates[0].change, strict=True)]


class Server:
    """The shared weights, and what a round of answers makes of them.

    Formula: `v <- m v + mean change`, `w <- w + v`. With m = 0 it is federated averaging; m above 0: Hsu et
    al., *Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification*, 2019.

    Args:
        weights: to start from. momentum: m.

    Attributes:
        weights: as they are now. sent_up, sent_down: bytes from and to all devices so far.

    Example:
        >>> server = Server([np.zeros(1)], momentum=0.5)
        >>> for _ in range(2):
        ...     server.round([lambda weights: Update([np.ones(1)], 10)])
        >>> server.weights[0].tolist(), server.sent_up, server.sent_down
        ([2.5], 32, 16)
    """

    def __init__(self, weights: Weights, *, momentum: float = 0.0):
        self.weights = [np.array(part) for part in weights]
        self.momentum = momentum
        self._velocity = [np.zeros_like(part) for part in weights]
        self.sent_up = self.sent_down = 0

    def round(self, clients: Sequence[LocalTraining]) -> None:
        """Send the weights to these clients, take what they answer, move."""
        updates = [client(self.weights) for client in clients]
        self.sent_down += len(clients) * bytes_of(self.weights)
        self.sent_up += sum(update.bytes for update in updates)
        for place, change in enumerate(mean_change(updates)):
            self._velocity[place] = self.momentum * self._velocity[place] + change
            self.weights[place] = self.weights[place] + np.asarray(self._velocity[place], change.dtype)


def bytes_of(weights: Sequence[np.ndarray]) -> int:
    """Bytes of weights as they are sent, without any packing.

    Example:
        >>> bytes_of([np.zeros((2, 3), np.float32), np.zeros(1)])
        32
    """
    return sum(part.nbytes for part in weights)
