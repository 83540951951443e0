"""TensorFlow Recommenders' own two-tower, as its retrieval tutorial builds it, behind the contract of peers.

https://www.tensorflow.org/recommenders/examples/basic_retrieval: an embedding a user, an embedding an item,
`tfrs.tasks.Retrieval` (in-batch softmax over dot products), Adagrad. Tuned like everybody; judged by our evaluator.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from pipeline.metrics.top_k import dot_product_scores
from pipeline.peers.peers import Answer, Problem, Question, Settings


def fit_tfrs(problem: Problem, settings: Settings, seed: int) -> Answer:
    """Train on the positive pairs of the train split.

    Args:
        settings: `width`, `learning_rate`, `batch_size`, `epochs`.

    Raises:
        RuntimeError: TensorFlow was imported with Keras 3 as `tf.keras`, which the library refuses.
    """
    if not tf.keras.Model.__module__.startswith("tf_keras"):
        raise RuntimeError(
            "TF_USE_LEGACY_KERAS: must be 1 before TensorFlow's first import, received Keras 3 as tf.keras "
            f"({tf.keras.Model.__module__}); benchmarks/quality.py sets it"
        )
    import tensorflow_recommenders as tfrs

    class TutorialModel(tfrs.Model):
        def __init__(self) -> None:
            super().__init__()
            self.user_model = tf.keras.layers.Embedding(len(problem.train), settings["width"])
            self.item_model = tf.keras.layers.Embedding(problem.items + 1, settings["width"])
            self.task = tfrs.tasks.Retrieval()

        def compute_loss(self, features, training=False):
            return self.task(
                self.user_model(features["user"]), self.item_model(features["item"]), compute_metrics=False
            )

    tf.keras.utils.set_random_seed(seed)
    users, items = problem.train.users.astype(np.int32), problem.train.rows
    batch = min(settings["batch_size"], len(items))
    events = tf.data.Dataset.from_tensor_slices({"user": users, "item": items})
    events = events.shuffle(len(items), seed=seed, reshuffle_each_iteration=True).batch(batch, drop_remainder=True)
    model = TutorialModel()
    model.compile(optimizer=tf.keras.optimizers.Adagrad(settings["learning_rate"]))
    model.fit(events.prefetch(2), epochs=settings["epochs"], verbose=0)
    user_vectors = model.user_model.embeddings.numpy()
    item_vectors = model.item_model.embeddings.numpy()

    def answer(question: Question):
        return dot_product_scores(user_vectors[question.requests.users], item_vectors)

    return answer
