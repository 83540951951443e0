"""Small SavedModels for the serving tests: half_plus_two, a string lookup, a model that takes its time, a ScaNN
index."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

from serving.server.inference import CLASSIFY_METHOD, PREDICT_METHOD, REGRESS_METHOD


def write_half_plus_two(base: Path, version: int, bias: float = 2.0) -> Path:
    """y = x / 2 + bias, with a predict, a classify and a regress signature, `spin`, which loops n times first, and `wait`,
    which loops until there is a file.

    It lands by a rename, as an exporter writes.
    """
    graph = tf.Graph()
    base.mkdir(parents=True, exist_ok=True)
    folder, temporary = base / str(version), base / f".{version}.partial"
    info = tf.compat.v1.saved_model.build_tensor_info
    signature = tf.compat.v1.saved_model.build_signature_def
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        a = tf.compat.v1.get_variable("a", initializer=0.5, use_resource=True)
        b = tf.compat.v1.get_variable("b", initializer=float(bias), use_resource=True)
        x = tf.compat.v1.placeholder(tf.float32, [None], "x")
        y = tf.add(tf.multiply(a, x), b, "y")
        serialized = tf.compat.v1.placeholder(tf.string, [None], "examples")
        parsed = tf.io.parse_example(serialized, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        scores = tf.add(tf.multiply(a, parsed), b, "scores")
        n = tf.compat.v1.placeholder(tf.int32, [], "n")
        looped = tf.while_loop(lambda i, _: i < n, lambda i, s: (i + 1, tf.linalg.matmul(s, s) * 0.1), (0, tf.eye(64)))
        spun = tf.add(y, 0.0 * looped[1][0, 0], "spun")
        file = tf.compat.v1.placeholder(tf.string, [], "file")
        found = tf.while_loop(lambda count, _: count < 1, lambda _, at: (tf.size(tf.io.matching_files(at)), at), (0, file))
        waited = tf.add(y, 0.0 * tf.cast(found[0], tf.float32), "waited")
        session.run(tf.compat.v1.global_variables_initializer())
        builder = tf.compat.v1.saved_model.Builder(str(temporary))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": signature({"x": info(x)}, {"y": info(y)}, PREDICT_METHOD),
                "classify_x_to_y": signature({"inputs": info(serialized)}, {"scores": info(scores)}, CLASSIFY_METHOD),
                "regress_x_to_y": signature({"inputs": info(serialized)}, {"outputs": info(scores)}, REGRESS_METHOD),
                "spin": signature({"x": info(x), "n": info(n)}, {"y": info(spun)}, PREDICT_METHOD),
                "wait": signature({"x": info(x), "file": info(file)}, {"y": info(waited)}, PREDICT_METHOD),
            },
        )
        builder.save()
    temporary.rename(folder)
    return folder


class Lookup(tf.Module):
    """Rows of string ids by a table, the first k of each line."""

    def __init__(self, words: list[str]) -> None:
        super().__init__()
        keys = tf.constant(words)
        values = tf.range(1, len(words) + 1, dtype=tf.int64)
        self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0)

    @tf.function(
        input_signature=[tf.TensorSpec([None, None], tf.string, "ids"), tf.TensorSpec([], tf.int32, "k")],
        autograph=False,
    )
    def __call__(self, ids: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        first = ids[:, :k]
        rows = self.table.lookup(first)
        return {
            "rows": rows,
            "echo": first,
            "raw_bytes": first,
            "known": rows > 0,
            "share": tf.cast(rows, tf.float64) / 3,
        }


def write_lookup(base: Path, version: int, words: list[str]) -> Path:
    """A model of strings and a scalar, exported from TensorFlow 2."""
    base.mkdir(parents=True, exist_ok=True)
    module = Lookup(words)
    temporary, folder = base / f".{version}.partial", base / str(version)
    tf.saved_model.save(module, str(temporary), signatures={"serving_default": module.__call__})
    temporary.rename(folder)
    return folder


class Catalogue(tf.Module):
    """Both stages of a recommender over items "i1", "i2", ...: retrieval likes low numbers, ranking likes high ones."""

    def __init__(self, count: int) -> None:
        super().__init__()
        ids = [f"i{number}" for number in range(1, count + 1)]
        self.ids = tf.constant(["", *ids])
        initializer = tf.lookup.KeyValueTensorInitializer(tf.constant(ids), tf.range(1, count + 1))
        self.rows = tf.lookup.StaticHashTable(initializer, 0)
        self.scores = 1.0 / tf.range(1.0, count + 1.0)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "user_id"),
            tf.TensorSpec([None, None], tf.string, "recent_item_ids"),
            tf.TensorSpec([None, None], tf.string, "exclude_item_ids"),
            tf.TensorSpec([], tf.int32, "k"),
        ],
        autograph=False,
    )
    def retrieve(self, user_id, recent_item_ids, exclude_item_ids, k):
        """Best k items; as many as there are not excluded, the rest is padding."""
        excluded = tf.reduce_sum(tf.one_hot(self.rows.lookup(exclude_item_ids) - 1, tf.size(self.scores)), axis=1)
        known = tf.cast(tf.shape(recent_item_ids)[1], tf.float32)  # a history lifts every score by its length
        scores = self.scores + known - 1e9 * excluded + tf.zeros([tf.size(user_id), 1])
        best, columns = tf.math.top_k(scores, tf.minimum(k, tf.size(self.scores)))
        rows = tf.where(best > -1e8, columns + 1, 0)
        padding = [[0, 0], [0, k - tf.shape(rows)[1]]]
        ids = tf.gather(self.ids, tf.pad(rows, padding))
        return {"item_ids": ids, "scores": tf.pad(best, padding, constant_values=-1e9)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "user_id"),
            tf.TensorSpec([None, None], tf.string, "recent_item_ids"),
            tf.TensorSpec([None, None], tf.string, "candidate_ids"),
            tf.TensorSpec([None, None], tf.float32, "retrieval_scores"),
            tf.TensorSpec([None], tf.int64, "timestamp"),
        ],
        autograph=False,
    )
    def rank(self, user_id, recent_item_ids, candidate_ids, retrieval_scores, timestamp):
        """score = row / N, click = the retrieval score, purchase = the timestamp."""
        rows = tf.cast(self.rows.lookup(candidate_ids), tf.float32)
        score = tf.where(rows > 0, rows / tf.cast(tf.size(self.scores), tf.float32), -1.0)
        times = tf.cast(timestamp[:, None], tf.float32) + tf.zeros_like(rows)
        seen = tf.cast(tf.size(user_id) + tf.shape(recent_item_ids)[1], tf.float32)
        return {"click": retrieval_scores + 0 * seen, "purchase": times, "score": score}


def write_recommender(store: Path, version: int, count: int) -> None:
    """`retrieval/<version>` and `ranking/<version>` with the signatures of a release."""
    module = Catalogue(count)
    for name, function in (("retrieval", module.retrieve), ("ranking", module.rank)):
        (store / name).mkdir(parents=True, exist_ok=True)
        tf.saved_model.save(module, str(store / name / str(version)), signatures={"serving_default": function})


def write_scann(base: Path, version: int, vectors: np.ndarray, k: int) -> Path:
    """A ScaNN index in a SavedModel, as a graph with custom operations."""
    import tensorflow_recommenders as tfrs

    index = tfrs.layers.factorized_top_k.ScaNN(k=k, num_leaves=4, num_leaves_to_search=4, num_reordering_candidates=64)
    index.index(tf.constant(vectors))
    module = tf.Module()
    module.index = index  # type: ignore[attr-defined]

    @tf.function(input_signature=[tf.TensorSpec([None, vectors.shape[1]], tf.float32, "query")], autograph=False)
    def search(query: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, rows = index(query)
        return {"rows": rows, "scores": scores}

    folder = base / str(version)
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": search}, options=options)
    return folder


def copy_version(source: Path, target: Path) -> Path:
    """A version put beside and renamed into place, as exporters do."""
    temporary = target.with_name(f".{target.name}.partial")
    shutil.copytree(source, temporary)
    temporary.rename(target)
    return target
