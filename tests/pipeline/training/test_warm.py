"""What warm starts learn from, night after night."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from data.histories import Histories
from data.schema import MODALITIES
from pipeline.settings.job import JobSection
from pipeline.training.warm import WarmTowers, content_guess
from tests.towers.test_content_map import Table

FIRST, A_DAY, NIGHTS = 3000, 40, 28


def test_four_weeks_of_nights_come_back_to_every_event_whatever_its_age():
    section, learned = JobSection(), np.zeros(FIRST + NIGHTS * A_DAY, int)
    again = np.zeros(NIGHTS)  # an older event's chance to be learned from once more, by night
    for night in range(NIGHTS):
        known = FIRST + night * A_DAY
        times = np.arange(known + A_DAY)
        histories = Histories.from_events(np.ones_like(times), times, times, user_rows=2)
        learned[WarmTowers(Path(), known - 1, section).positions(histories)] += 1
        again[night] = section.replay * A_DAY / known
    assert (learned[:FIRST] == 0).mean() < 0.01
    # What was there before is drawn in every night, what came in one is learned from once and drawn in those after it.
    days = learned[FIRST:].reshape(NIGHTS, A_DAY)
    groups = [(learned[:FIRST], 0, again), *((days[day], 1, again[day + 1 :]) for day in range(7))]
    for times, once, chances in groups:
        spread = np.sqrt((chances * (1 - chances)).sum() / len(times))
        assert times.min() >= once and abs(times.mean() - once - chances.sum()) < 4 * spread


def test_a_guess_by_content_reads_the_known_rows_and_those_asked_for():
    rng = np.random.default_rng(0)
    values, present = rng.normal(size=(500, 3)).astype(np.float16), np.zeros((500, len(MODALITIES)), bool)
    present[:, MODALITIES.index("text")] = True
    vectors = (values.astype(np.float64) @ rng.normal(size=(3, 2))).astype(np.float32)
    table = Table(values)
    store = SimpleNamespace(present=present, table={"text": table}.get, frames={})
    wanted = np.array([7, 450, 8])
    guess = content_guess(vectors, np.arange(100, 400), wanted, store, ("text",))
    assert table.read == 300 + 3
    np.testing.assert_allclose(guess, vectors[wanted], atol=0.05)
