"""Parts of a batch: their losses and gradients add up to those of the whole, whatever the loss and however it is cut."""

import numpy as np
import pytest
from keras import ops

from data.batches import RetrievalBatches
from data.histories import Histories
from data.loss_columns import LossColumns
from tests.towers.gradients import value_and_gradients
from towers.global_negatives import filled_for, part_of
from towers.loss_options import LossOptions
from towers.retrieval_loss import RetrievalLoss

ITEMS, EVENTS, WIDTH = 23, 18, 4


def last_batch(options, rng):
    """A batch of twelve events of which six are padding, so that parts weigh differently and one of six weighs nothing."""
    users, items = rng.integers(1, 5, EVENTS), rng.integers(1, ITEMS, EVENTS)
    histories = Histories.from_events(users, items, np.arange(EVENTS), user_rows=5)
    columns = LossColumns(item_rows=ITEMS, **options.columns)
    settings = {"item_rows": ITEMS, "batch_size": 12, "history_length": 3, "ordered": True, "seed": 3, "static": False}
    return list(RetrievalBatches(histories, columns=columns, **settings).epoch(0))[-1]


@pytest.mark.parametrize("replicas", [2, 3, 6])
@pytest.mark.parametrize(
    "options",
    [
        LossOptions(exclude_positives=True, label_smoothing=0.1),
        LossOptions(negatives="mixed", uniform_negatives=5, hardest=4),
        LossOptions(kind="sigmoid"),
        LossOptions(kind="elsa"),
    ],
    ids=lambda options: f"{options.kind}-{options.negatives}",
)
def test_the_parts_add_up_to_the_whole(options, replicas):
    rng = np.random.default_rng(5)
    plain = last_batch(options, rng)
    whole = {name: ops.convert_to_tensor(value) for name, value in filled_for(plain, replicas).items()}
    table, queries = (rng.normal(size=(rows, WIDTH)).astype("float32") for rows in (ITEMS, 12))
    log_q = np.log(rng.dirichlet(np.ones(ITEMS))).astype("float32")
    loss = RetrievalLoss(options, item_rows=ITEMS, width=WIDTH, batch_size=12)

    def of(batch, rows, queries, items):
        columns = ops.take(items, batch["columns"], axis=0)
        return loss(queries, columns, rows, ops.take(log_q, rows), batch, ops.convert_to_tensor(3.0), training=True)

    def joined(queries, table):
        rows = ops.take(plain["items"], plain["columns"])
        return of(plain, rows, queries, ops.take(table, plain["items"], axis=0))

    def added_up(queries, table):
        parts = [part_of(whole, number, replicas) for number in range(replicas)]
        # What an all-gather of each replica's embeddings gives.
        items = ops.concatenate([ops.take(table, part["items"], axis=0) for part in parts])
        own = ops.split(queries, replicas)
        return sum(
            part["share"] * of(part, part["column_rows"], mine, items) for part, mine in zip(parts, own, strict=True)
        )

    expected, wanted = value_and_gradients(joined, [queries, table])
    value, gradients = value_and_gradients(added_up, [queries, table])
    assert value == pytest.approx(expected, rel=1e-6)
    for one, other in zip(gradients, wanted, strict=True):
        assert np.abs(other).max() > 1e-3
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_events_that_do_not_divide_are_refused():
    batch = last_batch(LossOptions(), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"batch_size.*12 events for 5 replicas"):
        filled_for(batch, 5)
