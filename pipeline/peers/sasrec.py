"""SASRec as its authors train it: a causal transformer over item ids that learns from every place of a sequence at once.

Kang and McAuley, *Self-Attentive Sequential Recommendation*, ICDM 2018, https://arxiv.org/abs/1808.09781, with the softmax
over the whole catalogue in the place of one sampled negative, which makes it a much stronger peer: Klenitskiy and Vasilev,
*Turning Dross Into Gold Loss*, RecSys 2023, https://arxiv.org/abs/2309.07602.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from keras import ops

from data.histories import Histories
from pipeline.metrics.examples import positive_histories
from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.metrics.top_k import ScoreBlock, dot_product_scores, top_k
from pipeline.peers.peers import Answer, Problem, Question, Settings
from pipeline.retrieval.train_retrieval import validation_requests
from pipeline.settings.config import RetrievalConfig
from pipeline.training.checkpoint import Checkpoint, training_variables
from pipeline.training.epoch_steps import LoopSettings, steps_a_call
from pipeline.training.epochs import seed_everything, train_epochs
from pipeline.training.optimizer import make_optimizer
from towers.fused_softmax import fused_softmax_loss
from towers.fusion import unit_length
from towers.transformer import TransformerBlock
from towers.two_tower import MAXIMUM_SCALE

PLAIN: Settings = {
    "width": 64,
    "length": 50,
    "layers": 2,
    "dropout": 0.2,
    "temperature": 0.0,
    "learning_rate": 1e-3,
    "batch_size": 1024,
    "epochs": 30,
    "patience": 3,
}
"""What a trial that says nothing else is made with: the paper's sizes, and epochs that validation ends."""
HEADS = 2


class SequenceBatches:
    """All users' sequences one after the other, in a random order of users, cut into rows of one length.

    An event is learned from those of the same user that stand before it in its row, `length` at most. Nothing is padding,
    however short the users' sequences are. Where the log has no times, every epoch puts a user's items in a new order, so
    that any of the others may stand before an item.

    Args:
        histories: positive training events. length: L. batch_size: events a batch, R * L of them at most. ordered: whether
            timestamps order the events. seed: of the order.

    Yields batches of R rows: `before` [R, L], the events; `place` [R, L], how many of the same user stand before each in
    its row; `target` [R, L], what came next; `weight` [R, L], 1 where that is the same user's.
    """

    def __init__(self, histories: Histories, *, length: int, batch_size: int, ordered: bool, seed: int):
        self.histories, self.length, self.ordered, self.seed = histories, length, ordered, seed
        self.rows = max(batch_size // length, 1)

    def __len__(self) -> int:
        return -(-(len(self.histories.items) - 1) // (self.rows * self.length))

    def epoch(self, number: int, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Batches of one epoch, in an order that depends on (seed, number) alone."""
        rng = np.random.default_rng([self.seed, number])
        histories = self.histories if self.ordered else self.histories.shuffled(rng)
        order = np.argsort(rng.permutation(len(histories.offsets) - 1)[histories.users], kind="stable")
        users, items = histories.users[order], histories.items[order]
        tokens, events = self.rows * self.length, len(items) - 1
        spare = len(self) * tokens - events
        weight = np.pad((users[1:] == users[:-1]).astype(np.float32), (0, spare))
        places = np.arange(len(weight))
        begins = (places % self.length == 0) | np.concatenate([[True], weight[:-1] == 0])
        arrays = {
            "before": np.pad(items[:-1], (0, spare)),
            "place": (places - np.maximum.accumulate(np.where(begins, places, 0))).astype(np.int32),
            "target": np.pad(items[1:], (0, spare)),
            "weight": weight,
        }
        # One user's rows apart, so that no batch is of a single user.
        mixed = rng.permutation(len(self) * self.rows).reshape(len(self), self.rows)
        shaped = {name: values.reshape(-1, self.length) for name, values in arrays.items()}
        for step in range(start, len(self)):
            yield {name: values[mixed[step]] for name, values in shaped.items()}


class SequenceModel(keras.Model):
    """`f_t = LN(blocks(dropout(E s_t + P_t)))` over the items s before, and a softmax over `f_t . e_j` for what comes next.

    Args:
        item_rows: N + 1. width: D. length: L. layers: of the transformer. dropout: rate on tokens and inside the blocks.
        temperature: 0 scores by dot product, as the paper does; above it, by cosine over the temperature, which is learned.
        seed: of weights and dropout.

    Inputs: as `SequenceBatches` yields them.
    """

    def __init__(
        self, item_rows: int, *, width: int, length: int, layers: int, dropout: float, temperature: float, seed: int
    ):
        super().__init__(name="sequence_model")
        normal = keras.initializers.RandomNormal(0.0, 0.02, seed=seed)
        self.items = self.add_weight(shape=(item_rows, width), initializer=normal, name="items")
        self.position = self.add_weight(shape=(length, width), initializer=normal, name="position")
        self.dropout = keras.layers.Dropout(dropout, seed=seed + 1)
        self.blocks = [
            TransformerBlock(width, HEADS, dropout, seed=seed + 10 * number, name=f"block_{number}")
            for number in range(1, 1 + layers)
        ]
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")
        for layer in (*self.blocks, self.norm):
            layer.build((None, None, width))
        self.cosine = temperature > 0
        start = keras.initializers.Constant(-np.log(temperature) if self.cosine else 0.0)
        self.log_scale = self.add_weight(shape=(), initializer=start, trainable=self.cosine, name="log_scale")
        self.built = True

    def call(self, batch, training=False):
        tokens = ops.take(self.items, batch["before"], axis=0) + ops.take(self.position, batch["place"], axis=0)
        tokens = self.dropout(tokens, training=training)
        steps = ops.arange(tokens.shape[1])
        # Of its own user alone: not before the event that has nothing before it.
        first = steps[None, :] - batch["place"]
        allowed = ops.logical_and(
            steps[None, None, :] <= steps[None, :, None], steps[None, None, :] >= first[:, :, None]
        )
        for block in self.blocks:
            tokens = block(tokens, allowed=allowed, training=training)
        return self.direction(self.norm(tokens))

    def direction(self, vectors):
        return unit_length(vectors) if self.cosine else vectors

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        queries = ops.reshape(y_pred, (x["before"].shape[0] * x["before"].shape[1], y_pred.shape[-1]))
        own, zeros = ops.reshape(x["target"], (-1,)), ops.zeros_like(self.items[:, 0])
        padding = ops.where(ops.arange(self.items.shape[0]) == 0, -1e9, zeros)
        return fused_softmax_loss(
            queries,
            self.direction(
                ops.cast(self.items, self.items.dtype)
            ),  # read: TensorFlow's custom gradients take no variable
            own=own,
            bias=padding,
            own_bias=ops.zeros_like(queries[:, 0]),
            scale=ops.exp(ops.minimum(self.log_scale, float(np.log(MAXIMUM_SCALE)))),
            weights=ops.reshape(x["weight"], (-1,)),
        )

    def reseed(self, seed: int) -> None:
        """Set every dropout's generator from one number, as `train_epochs` asks for."""
        layers = [layer for layer in self._flatten_layers() if isinstance(layer, keras.layers.Dropout) and layer.rate]
        for number, layer in enumerate(layers):
            layer.seed_generator.state.assign(np.array([seed % 2**32, number], dtype="uint32"))

    def queries(self, history: np.ndarray, block: int = 1024) -> np.ndarray:
        """What each history asks for next. Shapes: rows [Q, L], most recent first, 0 padding -> [Q, D]; zeros for none."""
        length, answers = self.position.shape[0], []
        history = np.pad(history, ((0, 0), (0, max(length - history.shape[1], 0))))[:, :length]
        lengths = (history > 0).sum(axis=1)
        places = np.broadcast_to(np.arange(length, dtype=np.int32), history.shape)
        items = np.take_along_axis(history, np.maximum(lengths[:, None] - 1 - places, 0), axis=1)  # the oldest first
        for start in range(0, len(items), block):
            part = slice(start, start + block)
            batch = {"before": ops.convert_to_tensor(items[part]), "place": ops.convert_to_tensor(places[part])}
            vectors = ops.convert_to_numpy(self(batch))
            latest = vectors[np.arange(len(vectors)), np.maximum(lengths[part] - 1, 0)]
            answers.append(latest * (lengths[part] > 0)[:, None])
        return np.concatenate(answers)

    def candidates(self) -> np.ndarray:
        """[N + 1, D], row 0 zeros."""
        vectors = np.array(ops.convert_to_numpy(self.direction(ops.convert_to_tensor(self.items))))
        vectors[0] = 0.0
        return vectors


def fit_sasrec(problem: Problem, settings: Settings, seed: int) -> Answer:
    """Train until validation NDCG@20 stalls, in the loop and with the optimizer that the towers have.

    Args:
        settings: those that differ from `PLAIN`.
    """
    dataset, settings = problem.dataset, {**PLAIN, **settings}
    shape = {name: settings[name] for name in ("width", "length", "layers", "dropout", "temperature")}
    config = RetrievalConfig(
        history_length=settings["length"],
        seed=seed,
        **{name: settings[name] for name in ("learning_rate", "batch_size", "epochs", "patience")},
    )
    histories = positive_histories(dataset, ("train",))
    batches = SequenceBatches(
        histories,
        length=config.history_length,
        batch_size=config.batch_size,
        ordered=dataset.schema.has_timestamps,
        seed=seed,
    )
    seed_everything(seed)
    model = SequenceModel(dataset.schema.item_rows, **shape, seed=seed)
    optimizer = make_optimizer(config, config.epochs * len(batches))
    # As the towers' own task: TensorFlow's matrix products beat XLA's on a CPU.
    model.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")
    model.optimizer.build(model.trainable_variables)
    requests = validation_requests(dataset, config)

    def validate() -> float:
        scores = dot_product_scores(model.queries(requests.history), model.candidates())
        ranked, _ = top_k(scores, np.arange(len(requests.users)), requests.seen, 20)
        return mean_over_users(ndcg_at_k(ranked, requests.relevant, 20))

    loop = LoopSettings(
        config.epochs, config.patience, seed * 100_003, steps_a_call=steps_a_call(config.batch_size), name="sasrec"
    )
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder), training_variables(model))
        train_epochs(model, batches, validate, checkpoint, loop, lambda *_: None)
    items = model.candidates()

    def answer(question: Question) -> ScoreBlock:
        return dot_product_scores(model.queries(question.requests.history), items)

    return answer
