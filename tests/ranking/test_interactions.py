"""Dot interactions and FinalMLP against their formulas written out; every kind keeps its word about widths."""

import numpy as np
import pytest

from ranking.config import RankingConfig
from ranking.dot_interactions import DotInteractions
from ranking.final_mlp import FinalMLP
from ranking.interactions import build_interaction

GROUPS = {"text": [(0, 3)], "profile": [(3, 5)], "price": [(5, 6), (7, 8)], "context": [(6, 7)]}
WIDTH = 8


def shaken(layer, seed=0):
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    return layer


def relu(x):
    return np.maximum(x, 0)


@pytest.fixture
def x0():
    return np.random.default_rng(1).normal(size=(2, 3, WIDTH)).astype(np.float32)


def test_dot_interactions_equal_the_loop(x0):
    layer = shaken(DotInteractions(GROUPS, width=5, seed=0))
    dots, onward = (np.asarray(part) for part in layer(x0))
    for line in np.ndindex(2, 3):
        embeddings = []
        for dense, ranges in zip(layer.projections, GROUPS.values(), strict=True):
            values = np.concatenate([x0[line][start:end] for start, end in ranges])
            embeddings.append(values @ np.asarray(dense.kernel) + np.asarray(dense.bias))
        expected = [embeddings[i] @ embeddings[j] / 5**0.5 for i in range(4) for j in range(i + 1, 4)]
        np.testing.assert_allclose(dots[line], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(onward[line], [*expected, *x0[line]], rtol=1e-4, atol=1e-5)


def stream_output(stream, x):
    for dense in stream.layers:
        x = relu(x @ np.asarray(dense.kernel) + np.asarray(dense.bias))
    return x


def test_final_mlp_equals_the_loop(x0):
    layer = shaken(FinalMLP(GROUPS, WIDTH, (6, 4), heads=2, dropout=0.5, seed=0))
    fused, onward = (np.asarray(part) for part in layer(x0))
    np.testing.assert_array_equal(fused, onward)
    columns = ([3, 4, 6], [5, 7])  # profile and context; price
    for line in np.ndindex(2, 3):
        seen = []
        for gate, chosen, stream in zip(layer.gates, columns, layer.streams, strict=True):
            opened = x0[line][chosen] @ np.asarray(gate.kernel) + np.asarray(gate.bias)
            seen.append(stream_output(stream, 2 / (1 + np.exp(-opened)) * x0[line]))
        bilinear, products = np.asarray(layer.bilinear), []
        for head in range(2):
            first, second = (output[2 * head : 2 * head + 2] for output in seen)
            products += [sum(first[p] * bilinear[head, p, q] for p in range(2)) * second[q] for q in range(2)]
        np.testing.assert_allclose(fused[line], [*seen[0], *seen[1], *products], rtol=1e-4, atol=1e-4)


def test_the_papers_fusion_is_a_linear_head_of_ones(x0):
    layer = shaken(FinalMLP(GROUPS, WIDTH, (4,), heads=2, dropout=0.0, seed=0))
    fused = np.asarray(layer(x0)[0])
    first, second, bilinear = fused[..., :4], fused[..., 4:8], np.asarray(layer.bilinear)
    fusion = sum(
        np.einsum("bkp,pq,bkq->bk", first[..., part], bilinear[head], second[..., part])
        for head, part in enumerate((slice(0, 2), slice(2, 4)))
    )
    np.testing.assert_allclose(fused[..., 8:].sum(axis=-1), fusion, rtol=1e-4, atol=1e-5)


def test_gates_start_open_and_need_no_columns(x0):
    layer = FinalMLP({"text": [(0, WIDTH)]}, WIDTH, (4,), heads=1, dropout=0.0, seed=0)
    plain = stream_output(layer.streams[0], x0)
    np.testing.assert_allclose(np.asarray(layer(x0)[0])[..., :4], plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["dcn", "dlrm", "finalmlp"])
def test_every_kind_says_its_widths(kind, x0):
    layer = build_interaction(GROUPS, WIDTH, RankingConfig(interaction=kind, cross_rank=2), seed=3)
    straight, onward = layer(x0)
    assert (straight.shape[-1], onward.shape[-1]) == (layer.straight_width, layer.onward_width)


def test_heads_must_divide():
    with pytest.raises(ValueError, match="received 3"):
        FinalMLP(GROUPS, WIDTH, (6, 4), heads=3, dropout=0.0, seed=0)
