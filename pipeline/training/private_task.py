"""The retrieval task under differential privacy: gradients user by user, clipped, summed and drowned in noise."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from keras import ops

from towers.clipping import clipped_sum, noisy_mean
from towers.losses import MASKED_LOGIT, softmax_loss
from towers.task import RetrievalTask
from towers.two_tower import TwoTower

USERS = ("profile", "target", "history", "weight")


class PrivateTask(RetrievalTask):
    """Two towers whose every step is the Gaussian mechanism on the sum of the users' clipped gradients.

    A user's loss is the mean cross-entropy of their own events against the whole catalogue, each event's query made of
    the history before it: it depends on this user and on the catalogue alone. Every item counts as known, for which items
    have been chosen is the users' secret; id vectors of items that nobody chose are trained by noise.

    How: the item tower runs once over the catalogue. For a block of users at a time, `tf.vectorized_map` takes each
    user's loss back to the user tower's weights and to the item vectors, and these through the item tower to its weights;
    dropout of the item tower is drawn once a step, the same for all. The block's gradients [U, P] are clipped and added up.

    Args:
        two_tower: without user ids. tables: see `RetrievalTask`; `counts` says only how many rows there are.
        clip: C. noise_multiplier: sigma, in units of C; 0 = no noise. users_per_batch: on average.
        block: users at a time. label_smoothing, learn_temperature: of the softmax.

    Inputs: see `data.private_batches`.
    """

    def __init__(
        self,
        two_tower: TwoTower,
        *,
        counts,
        clip: float,
        noise_multiplier: float,
        users_per_batch: int,
        block: int,
        label_smoothing: float = 0.0,
        learn_temperature: bool = True,
        **tables,
    ):
        everything = np.ones(len(counts))
        everything[0] = 0
        super().__init__(two_tower, counts=everything, **tables)
        self.clip, self.noise_multiplier, self.users_per_batch = clip, noise_multiplier, users_per_batch
        self.block, self.label_smoothing = block, label_smoothing
        # A weight that no loss reaches would walk about by noise alone.
        two_tower.log_scale.trainable = learn_temperature
        two_tower.item_tower.id_embedding.trainable = two_tower.item_tower.use_id
        self.bias = np.where(everything > 0, 0.0, MASKED_LOGIT).astype(np.float32)
        of_items = {id(variable) for variable in two_tower.item_tower.trainable_variables}
        self.item_variables = [part for part in self.trainable_variables if id(part) in of_items]
        self.other_variables = [part for part in self.trainable_variables if id(part) not in of_items]

    @property
    def gradient_width(self) -> int:
        """P, numbers in a gradient of all weights."""
        return sum(int(np.prod(variable.shape)) for variable in self.trainable_variables)

    def user_loss(self, items, profile, target, history, weight):
        """Mean loss of one user's events. Shapes: items [N + 1, D], profile [P], target, weight [K], history [K, L]."""
        nobody = ops.zeros_like(target)
        profile = ops.broadcast_to(profile[None, :], (target.shape[0], profile.shape[0]))
        queries, _ = self.two_tower.user_tower(nobody, profile, ops.take(items, history, axis=0), history > 0)
        return softmax_loss(
            queries,
            items,
            own=target,
            bias=ops.convert_to_tensor(self.bias),
            own_bias=ops.zeros_like(weight),
            scale=self.two_tower.scale,
            weights=weight,
            label_smoothing=self.label_smoothing,
        )

    def user_gradients(self, users, items, tape) -> tuple[tf.Tensor, tf.Tensor]:
        """Losses [U] and gradients [U, P] of some users, not clipped; `tape` has seen how `items` came about."""
        theirs = [variable.value for variable in self.other_variables]
        catalogue = [variable.value for variable in self.item_variables]

        def of_one(user):
            with tf.GradientTape() as inner:
                inner.watch([items, *theirs])
                loss = self.user_loss(items, *(user[name] for name in USERS))
            by_items, *by_theirs = inner.gradient(loss, [items, *theirs], unconnected_gradients="zero")
            by_catalogue = tape.gradient(items, catalogue, tf.convert_to_tensor(by_items), unconnected_gradients="zero")
            parts = [tf.reshape(tf.convert_to_tensor(part), [-1]) for part in (*by_catalogue, *by_theirs)]
            return loss, tf.concat(parts, axis=0)

        return tf.vectorized_map(of_one, users, fallback_to_while_loop=False)

    def summed_gradients(self, batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Sum of the clipped gradients [P] and of the losses of a batch's users."""
        with tf.GradientTape(persistent=True) as tape:
            items = self.embed_items(tf.range(self.two_tower.schema.item_rows), training=True)
        users = {**batch, "profile": ops.take(self.tables["profile"], batch["user"], axis=0)}
        blocks = {name: tf.reshape(users[name], [-1, self.block, *users[name].shape[1:]]) for name in USERS}

        def add(sums, users):
            losses, gradients = self.user_gradients(users, items, tape)
            return sums[0] + clipped_sum(gradients, self.clip), sums[1] + tf.reduce_sum(losses)

        return tf.foldl(add, blocks, (tf.zeros(self.gradient_width), tf.zeros(())), parallel_iterations=1)

    def train_step(self, data):
        (batch,) = data
        total, loss = self.summed_gradients(batch)
        mean = noisy_mean(
            total,
            batch["noise"],
            clip=self.clip,
            noise_multiplier=self.noise_multiplier,
            users=float(self.users_per_batch),
        )
        variables = [*self.item_variables, *self.other_variables]
        parts = tf.split(mean, [int(np.prod(variable.shape)) for variable in variables])
        gradients = [tf.reshape(part, variable.shape) for part, variable in zip(parts, variables, strict=True)]
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self._loss_tracker.update_state(loss / self.users_per_batch)
        return self.get_metrics_result()
