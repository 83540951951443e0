"""A finished run's ranker as a teacher: its own candidates in the pupil's rows, and nothing of what the pupil is judged by."""

import dataclasses
import json
import types

import numpy as np
import pytest

from data.schema import TEST, TRAIN, VALID
from pipeline.ranker import ranker_teacher
from pipeline.ranker.earlier_fold import Correspondence
from pipeline.ranker.leak_checks import LeakError
from pipeline.ranker.ranker_teacher import ranker_lists
from pipeline.retrieval.train_retrieval import train_retrieval
from pipeline.settings.config import ConfigError, load_config
from tests.pipeline.ranker.test_earlier_fold import earlier, vector  # noqa: F401
from tests.pipeline.ranker.test_leak_checks import dataset  # noqa: F401
from tests.pipeline.training_world import make_world
from towers.ranker_distillation import RankedLists

CANDIDATES = 6


def liking(item_id):
    """What the ranker says of an item, whatever its row."""
    return 0.01 + 0.9 * (int(item_id[1:]) * 7 % 41) / 41 if item_id else 0.0


class Form:
    """A ranker that likes every id by its number."""

    config = types.SimpleNamespace(history_length=3)

    def __init__(self, then):
        self.names, self.times = then.items["item_id"].to_numpy(), set()

    def __call__(self, users, history, rows, scores, times):
        self.times |= set(times.tolist())
        return {"click": np.vectorize(liking)(self.names[rows])}


@pytest.fixture
def teacher(earlier, monkeypatch):  # noqa: F811
    """A run whose towers know every id by a vector, in rows of its own."""
    folder, then = earlier
    items, form = np.stack([vector(name) for name in then.items["item_id"]]).astype(np.float32), Form(then)
    served = types.SimpleNamespace(
        items=items, history_length=4, queries=lambda profile, users, history: items[history].mean(axis=1) + 0.1
    )
    monkeypatch.setattr(ranker_teacher, "load_served", lambda run: served)
    monkeypatch.setattr(ranker_teacher.RankingServingForm, "load", lambda path: form)
    return folder, then, form


def test_lists_are_the_runs_candidates_without_what_a_user_has_seen(dataset, teacher):  # noqa: F811
    folder, then, form = teacher
    lists = ranker_lists(dataset, folder, CANDIDATES)
    assert lists.rows.shape == lists.scores.shape == (dataset.schema.user_rows, CANDIDATES)
    names, train = dataset.items["item_id"].to_numpy(), dataset.events[dataset.events["split"] == TRAIN]
    assert form.times == {int(train["timestamp"].max())}
    held = [name for name in then.items["item_id"][1:]]
    for user in range(1, dataset.schema.user_rows):
        mine = train[train["user"] == user]
        latest = names[mine[mine["positive"]]["item"].to_numpy()[::-1][:4]]
        known = [vector(name) if name in held else np.zeros(5) for name in latest] + [np.zeros(5)] * (4 - len(latest))
        query = np.mean(known, axis=0) + 0.1
        unseen = [name for name in held if name not in set(names[mine["item"]])]
        expected = sorted(unseen, key=lambda name: -(query @ vector(name)))[:CANDIDATES]
        assert [name if name in names else "" for name in expected] == names[lists.rows[user]].tolist()
        there = lists.rows[user] > 0
        told = np.exp(lists.scores[user][there])
        np.testing.assert_allclose(told, [liking(name) for name in np.array(expected)[there]], rtol=1e-5)


@pytest.mark.parametrize("split", [VALID, TEST])
def test_a_ranker_that_learned_from_the_judges_days_is_refused(dataset, teacher, split):  # noqa: F811
    _, then, _ = teacher
    events = then.events.assign(split=np.int8(TRAIN))
    events.loc[0, "timestamp"] = int(dataset.events["timestamp"][dataset.events["split"] == split].max())
    with pytest.raises(LeakError, match="validation begins at"):
        refuse(dataset, then, events)


def test_a_ranker_that_learned_from_the_judges_pairs_is_refused(dataset, teacher):  # noqa: F811
    """The same pairs under other dates, and in a split that is not by time."""
    _, then, _ = teacher
    given = dataclasses.replace(dataset, report={"split": "given"})
    refuse(given, then, then.events)
    judged = dataset.events[dataset.positive & (dataset.events["split"] == TEST)]
    rows = Correspondence.of(dataset, then)
    known = rows.user_then[judged["user"]] * rows.item_then[judged["item"]] > 0
    trained = set(map(tuple, dataset.events.loc[dataset.events["split"] == TRAIN, ["user", "item"]].to_numpy()))
    leak = next(
        pair for pair in judged.loc[known, ["user", "item"]].itertuples(index=False) if tuple(pair) not in trained
    )
    events = then.events.copy()
    events.loc[0, ["user", "item", "positive"]] = [rows.user_then[leak.user], rows.item_then[leak.item], True]
    with pytest.raises(LeakError, match=r"from 1 of the pairs .* such as event \d+"):
        refuse(given, then, events)


def refuse(dataset, then, events):  # noqa: F811
    changed = dataclasses.replace(then, events=events)
    ranker_teacher.refuse_later_knowledge(dataset, changed, Correspondence.of(dataset, changed))


def test_towers_come_nearer_to_the_ranker(tmp_path, monkeypatch):
    """Lists that prefer items by their row, which the log says nothing of."""
    _, data, store = make_world(tmp_path)
    rows = np.tile(np.arange(1, 13, dtype=np.int32), (data.schema.user_rows, 1))
    lists = RankedLists(rows, np.tile(np.linspace(4, 0, 12, dtype=np.float32), (len(rows), 1)))
    monkeypatch.setattr(ranker_teacher, "ranker_lists", lambda *arguments: lists)
    settings = ["width=8", "history_length=4", "history=mean", "batch_size=64", "epochs=3", "learning_rate=0.03"]
    extra = ["side.ranker=3.0", "distill_ranker=somewhere"]
    config = load_config(overrides=[f"retrieval.{setting}" for setting in settings + extra]).retrieval
    out = tmp_path / "out"
    out.mkdir()
    train_retrieval(data, store, out, tmp_path / "ck", config, modalities=(), progress=lambda *_: None)
    log = json.loads((out / "history.json").read_text())
    assert log[-1]["side/ranker"] < 0.8 * log[0]["side/ranker"]


def test_a_run_and_its_weight_go_together():
    for wrong in ("retrieval.side.ranker=1.0", "retrieval.distill_ranker=runs/earlier"):
        with pytest.raises(ConfigError, match="go together"):
            load_config(overrides=[wrong])
    both = ["retrieval.side.ranker=1.0", "retrieval.distill_ranker=runs/earlier"]
    assert load_config(overrides=both).retrieval.sparse_updates_now is False
    with pytest.raises(ValueError, match="no distill_ranker"):
        _ = load_config(overrides=[*both, "retrieval.sparse_updates=true"]).retrieval.sparse_updates_now
