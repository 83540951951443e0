"""One code, two engines: the graph of a backend answers what NumPy does, for any batch, width and page."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from ranking.array_ops import numpy_ops
from ranking.policy import BOUNDS, Policy
from ranking.rerank import Candidates, Page, rerank
from tests.ranking.test_rerank import EVERYTHING, candidates

FIELDS = [field.name for field in dataclasses.fields(Candidates) if field.name != "kept"]
POLICIES = {
    "plain": Policy(),
    "mmr": Policy(mmr_lambda=0.6),
    "dpp": Policy(dpp=0.3),
    "chance": Policy(epsilon=0.2, thompson=1.0),
    "everything": EVERYTHING,
}


def signature(name: str) -> tf.TensorSpec:
    example = np.asarray(getattr(candidates(), name))
    shape = {"vectors": (None, 3, None, 4), "target": (None, 3)}.get(name, (None,) * example.ndim)
    return tf.TensorSpec(shape, example.dtype, name)


@pytest.fixture(scope="module")
def graph():
    weights = tf.TensorSpec((len(BOUNDS),), tf.float32)

    @tf.function(
        input_signature=[{name: signature(name) for name in FIELDS}, weights, tf.TensorSpec((), tf.int32)],
        autograph=False,
    )
    def answer(inputs, weights, k):
        return tuple(rerank(Candidates(**inputs), dict(zip(BOUNDS, tf.unstack(weights), strict=True)), k))

    return answer


@pytest.mark.parametrize(("requests", "count", "k"), [(6, 20, 8), (1, 7, 12), (3, 0, 4), (2, 9, 0), (64, 30, 5)])
@pytest.mark.parametrize("name", POLICIES)
def test_graph_equals_numpy(graph, name, requests, count, k):
    given = candidates(requests, count, k)
    inputs = {field: tf.constant(getattr(given, field)) for field in FIELDS}
    weights = tf.constant(list(POLICIES[name].weights().values()), tf.float32)
    found = Page(*(part.numpy() for part in graph(inputs, weights, tf.constant(k))))
    expected = rerank(given, POLICIES[name], k, ops=numpy_ops)
    np.testing.assert_array_equal(found.places, expected.places)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(found.propensities, expected.propensities, atol=1e-4)


def test_static_shapes_and_eager_operations_agree():
    given = candidates(2, 9, 4)
    expected = rerank(given, EVERYTHING, 4, ops=numpy_ops)
    tensors = Candidates(**{field: tf.constant(getattr(given, field)) for field in FIELDS})
    for found in (rerank(tensors, EVERYTHING, 4), tf.function(lambda: rerank(tensors, EVERYTHING, 4), autograph=False)()):
        np.testing.assert_array_equal(found.rows.numpy(), expected.rows)
        np.testing.assert_allclose(found.propensities.numpy(), expected.propensities, atol=1e-4)
