"""What DR takes for the chance of a click: no skip, where the log knows nothing else, and the click's own head otherwise."""

import numpy as np
import pytest

from data.schema import EVENT_CODES
from pipeline.policy.off_policy_stage import estimate_off_policy
from pipeline.ranker.lists import RankingFold
from tests.pipeline.policy.test_first_pages import BEGUN, requests_of, with_events
from tests.pipeline.policy.test_logged_pages import CHANCE, DAY, SHOWN_WITH, log_of

SERVED = np.arange(1, 11)


@pytest.mark.parametrize(("seen", "heads"), [(0.0, ["click", "skip"]), (0.5, ["click", "skip"]), (0.0, ["click"])])
def test_a_skip_is_the_complement_of_a_click_only_where_nothing_is_just_seen(seen, heads):
    """DR written out, of a page of the best three; `seen` is the share of what is not clicked that the log calls a view."""
    rng, (dataset, _) = np.random.default_rng(0), log_of(150, 1, 3)
    kind = dataset.events["event"].to_numpy().copy()
    kind[(kind == EVENT_CODES["skip"]) & (rng.random(len(kind)) < seen)] = EVENT_CODES["view"]
    dataset = with_events(dataset, dataset.events.assign(event=kind, timestamp=BEGUN))
    requests = requests_of(dataset)
    rows = np.tile(SERVED, (len(requests), 1)).astype(np.int32)
    fold = RankingFold(requests, np.zeros((len(rows), 1)), rows, np.ones(rows.shape), np.zeros(0), np.zeros(0))
    told = {"skip": rng.random(rows.shape), "score": CHANCE[rows], "click": rng.random(rows.shape)}
    found = estimate_off_policy(dataset, fold, told, heads, size=3, clip=None, window_seconds=DAY)
    model = 1 - told["skip"] if "skip" in heads and seen == 0 else told["click"]
    best, total = SERVED[np.argsort(-CHANCE[SERVED])[:3]], 0.0
    for line in range(len(requests)):
        total += sum(model[line, item - 1] for item in best)
        for at in range(requests.start[line], requests.start[line + 1]):
            if (item := requests.item[at]) in best:
                total += (requests.labels["click"][at] - model[line, item - 1]) / SHOWN_WITH[item]
    assert found["policies"]["ranked"]["dr"]["value"] == pytest.approx(total / len(requests), rel=1e-5)
