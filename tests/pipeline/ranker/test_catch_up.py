"""Catching up: it learns from the days that judged, and leaves everything alone where it is switched off."""

import dataclasses

import numpy as np

from data.schema import VALID
from pipeline.ranker.visits import HELD_OUT, Visits
from ranking.serving_form import RankingServingForm
from tests.pipeline.ranker.test_train_ranking import CONFIG, log_of, store, trained  # noqa: F401


def weights_of(form):
    return [np.asarray(weight) for weight in form.get_weights()]


def test_the_newest_days_are_learned_and_nothing_else_changes(store, tmp_path):  # noqa: F811
    dataset, forms, reports = log_of(), {}, {}
    for epochs, rate in ((0, 0.3), (1, 0.0), (1, 0.3)):
        config = dataclasses.replace(CONFIG, epochs=1, catch_up_epochs=epochs, catch_up_rate=rate)
        reports[epochs, rate], forms[epochs, rate] = trained(dataset, store, tmp_path / f"{epochs}-{rate}", config)
    off, still, on = (weights_of(form) for form in forms.values())
    for one, other in zip(off, still, strict=True):
        np.testing.assert_array_equal(one, other)
    form: RankingServingForm = forms[1, 0.3]
    pairs = zip(weights_of(forms[0, 0.3].network), weights_of(form.network), strict=True)
    assert 0 < max(float(np.abs(one - other).max()) for one, other in pairs) < 0.1
    # Trees are fitted again to all days, as many as before.
    assert len(off) == len(on) and any((one != other).any() for one, other in zip(off[-3:], on[-3:], strict=True))
    assert form.calibrations == forms[0, 0.3].calibrations and form.score_weights == forms[0, 0.3].score_weights
    assert reports[1, 0.3] == reports[0, 0.3]
    # What policies are chosen on is what the ranker said before: the last days, whoever learns from them later.
    before, after = (Visits.load(tmp_path / folder / "out" / HELD_OUT) for folder in ("0-0.3", "1-0.3"))
    np.testing.assert_array_equal(before.scores, after.scores)
    np.testing.assert_array_equal(before.click, after.click)
    times = dataset.events[(dataset.events["split"] == VALID)]["timestamp"]
    assert len(before) and before.timestamps.min() > np.quantile(times, 0.4) and before.relevant.counts.min() > 0
