"""The content heads against loops: categories and sentiment off content tokens, and nothing off behaviour."""

import dataclasses

import numpy as np

from ranking.content_heads import ContentHeads, ItemLabels
from tests.ranking.worlds import SMALL, planted_world


def test_losses_equal_the_loop_and_never_read_behaviour():
    world = planted_world(requests=4)
    spec = dataclasses.replace(world.spec, categories=5)
    rng = np.random.default_rng(0)
    labels = ItemLabels(
        rng.integers(0, 5, (61, 3)).astype(np.int32), rng.normal(size=61).astype("f"), rng.random(61) < 0.6
    )
    heads = ContentHeads(spec, SMALL, tags=3)
    heads.assign(labels)
    for weight in heads.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    items = np.array([0, 5, 9, 9, 33, 0])
    tokens = rng.normal(size=(6, 3, SMALL.token_width)).astype("f")
    category, sentiment = (float(loss) for loss in heads(tokens, items))
    per_item, wrong = [], []
    for line, row in enumerate(items):
        x = np.concatenate([tokens[line, 0], tokens[line, 1]])  # text and image; the third is behaviour
        codes = {int(code) for code in labels.categories[row] if code}
        if codes:
            logits = x @ np.asarray(heads.category.kernel) + np.asarray(heads.category.bias)
            per_item.append(sum(np.logaddexp(0, s) - (place + 1 in codes) * s for place, s in enumerate(logits)))
        if labels.known[row] and row:
            said = x @ np.asarray(heads.sentiment.kernel)[:, 0] + np.asarray(heads.sentiment.bias)[0]
            wrong.append((said - labels.sentiment[row]) ** 2)
    np.testing.assert_allclose([category, sentiment], [np.mean(per_item), np.mean(wrong)], rtol=1e-4)
    tokens[:, 2] += 5
    assert [float(loss) for loss in heads(tokens, items)] == [category, sentiment]
