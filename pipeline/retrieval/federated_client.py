"""Devices of a simulated federation: each holds its own events and trains the user tower on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from keras import ops

from data.histories import Histories
from pipeline.retrieval.federated import Update, Weights
from towers.losses import MASKED_LOGIT, softmax_loss
from towers.two_tower import TwoTower


class UserTraining:
    """What every device can do: steps of gradient descent of the user tower on events, the items' side staying fixed.

    The loss is the cross-entropy of each event against the whole catalogue, its query made of the history before it.
    Here one tower serves all devices in turn, and every call begins with the weights that it is given.

    Args:
        two_tower: its user tower learns; it must have no user ids, no profile and no dropout.
        items: [N + 1, D], the catalogue's vectors as the server hands them out.
        rate: of the descent. batch: K, events of a step.

    Raises:
        ValueError: a user tower that reads more than histories.
    """

    def __init__(self, two_tower: TwoTower, items: np.ndarray, *, rate: float, batch: int):
        config, schema = two_tower.config, two_tower.schema
        if config.user_id or schema.profile or config.dropout:
            raise ValueError(
                f"two_tower: a federated user tower reads histories alone and has no dropout, received user_id "
                f"{config.user_id}, profile {tuple(schema.profile)}, dropout {config.dropout}; make it without them"
            )
        self.two_tower, self.rate, self.batch = two_tower, rate, batch
        self.items = tf.constant(items, tf.float32)
        bias = np.zeros(len(items), np.float32)
        bias[0] = MASKED_LOGIT
        self._bias = tf.constant(bias)
        self.variables = list(two_tower.user_tower.trainable_variables)
        self._steps = tf.function(self._descend, autograph=False, reduce_retracing=True)

    @property
    def start(self) -> Weights:
        """The tower's weights as they are now."""
        return [np.array(ops.convert_to_numpy(variable)) for variable in self.variables]

    def install(self, weights: Weights) -> None:
        """Give the tower these weights."""
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)

    def loss(self, target, history, weight):
        """Mean cross-entropy of events. Shapes: target, weight [K], history [K, L] rows -> scalar."""
        nobody, profile = ops.zeros_like(target), ops.zeros((target.shape[0], 0), "int32")
        queries, _ = self.two_tower.user_tower(nobody, profile, tf.gather(self.items, history), history > 0)
        return softmax_loss(
            queries,
            self.items,
            own=target,
            bias=self._bias,
            own_bias=tf.zeros_like(weight),
            scale=1.0 / self.two_tower.config.temperature,
            weights=weight,
        )

    def descend(self, weights: Weights, target: np.ndarray, history: np.ndarray, epochs: int) -> Weights:
        """Weights after `epochs` passes over these events, in their order. Shapes: target [E], history [E, L]."""
        spare = -len(target) % self.batch
        target = np.pad(target, (0, spare)).reshape(-1, self.batch)
        history = np.pad(history, ((0, spare), (0, 0))).reshape(-1, self.batch, history.shape[1])
        weight = (target > 0).astype(np.float32)
        arrays = [np.tile(part, (epochs, *[1] * (part.ndim - 1))) for part in (target, history, weight)]
        self.install(weights)
        self._steps(*map(tf.constant, arrays))
        return self.start

    def _descend(self, target, history, weight):
        def step(number):
            with tf.GradientTape() as tape:
                loss = self.loss(target[number], history[number], weight[number])
            gradients = tape.gradient(loss, [part.value for part in self.variables], unconnected_gradients="zero")
            for variable, gradient in zip(self.variables, gradients, strict=True):
                variable.assign(variable - self.rate * tf.convert_to_tensor(gradient))
            return number + 1

        tf.while_loop(lambda number: number < tf.shape(target)[0], lambda number: (step(number),), (0,))


class Client:
    """A device with its owner's events. Calling it trains on them; only an `Update` comes out.

    Args:
        training: the code that every device has. target: [E] items chosen. history: [E, L] items chosen before each.
        epochs: passes over the events a round.
    """

    def __init__(self, training: UserTraining, target: np.ndarray, history: np.ndarray, *, epochs: int = 1):
        self._training, self._epochs = training, epochs
        self._target, self._history = target, history

    def __call__(self, weights: Weights) -> Update:
        trained = self._training.descend(weights, self._target, self._history, self._epochs)
        change = [after - before for after, before in zip(trained, weights, strict=True)]
        return Update(change, len(self._target))


def clients_of(histories: Histories, training: UserTraining, *, history_length: int, epochs: int) -> Sequence[Client]:
    """A client for every user with events, each given its own and no others."""
    clients = []
    for user in np.flatnonzero(np.diff(histories.offsets)):
        positions = np.arange(histories.offsets[user], histories.offsets[user + 1])
        history = histories.before(positions, history_length)
        clients.append(Client(training, histories.items[positions], history, epochs=epochs))
    return clients
