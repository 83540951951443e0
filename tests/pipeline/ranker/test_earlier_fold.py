"""The second source of lists: an earlier run's index, asked only about what it has not seen, in the present rows."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from data.ingest import IngestOptions, ingest
from data.schema import TRAIN, VALID
from pipeline.ranker import earlier_fold as room
from pipeline.ranker.earlier_fold import as_of, earlier_fold
from pipeline.ranker.leak_checks import LeakError
from pipeline.ranker.list_checks import check_counts_read, check_lists
from pipeline.ranker.lists import retrieve_fold
from pipeline.ranker.retrieval_side import exact_search
from pipeline.ranker.setup import build_ranker, hold_out_requests
from pipeline.ranker.train import FOLDS, train_ranking
from pipeline.ranker.training_sources import earlier_source, own_source, rescaled
from ranking.serving_form import RankingServingForm
from tests.pipeline.ranker.test_leak_checks import BEGIN, CONFIG, DAY, EMBEDDINGS, START, dataset, query, search, store  # noqa: F401

BOUND = START + 12 * DAY
"""Until when the earlier run was trained."""
LENGTH = 4


@dataclasses.dataclass
class EarlierSide:
    """Stands in for an earlier run's towers and index: every id has a vector of its own."""

    item_embeddings: np.ndarray
    last: int
    history_length: int = LENGTH

    @property
    def records(self):
        return [{"splits": ["train"], "pairs": 1, "digest": "", "last_timestamp": self.last}]

    def query(self, users, history):
        return self.item_embeddings[history].mean(axis=1) + 0.1

    def search(self, queries, k, excluded):
        return exact_search(queries, self.item_embeddings, k, excluded)


def vector(item_id):
    """The earlier run's vector of an item, whatever its row."""
    return np.random.default_rng(int(item_id[1:])).normal(size=5) if item_id else np.zeros(5)


@pytest.fixture(scope="module")
def earlier(dataset, tmp_path_factory):  # noqa: F811
    """The folder of an earlier run: the log until a little after its bound, without some users and items, in other rows."""
    folder = tmp_path_factory.mktemp("earlier")
    events = dataset.events[dataset.events["timestamp"] < BOUND + 3 * DAY].sample(frac=1.0, random_state=1)
    log = pd.DataFrame(
        {
            "user_id": dataset.users["user_id"].to_numpy()[events["user"]],
            "item_id": dataset.items["item_id"].to_numpy()[events["item"]],
            "timestamp": events["timestamp"],
            "event": np.where(events["positive"], "view", "skip"),
            "split": np.where(events["timestamp"] <= BOUND, "train", "test"),
        }
    )
    log = log[~log["item_id"].isin(["i3", "i4"]) & (log["user_id"] != "u7")]
    gone = pd.DataFrame(
        {"user_id": ["gone"] * 2, "item_id": ["i900", "i5"], "timestamp": START, "event": "view", "split": "train"}
    )
    pd.concat([gone, log]).to_parquet(folder / "interactions.parquet")
    then = ingest(folder, folder / "ingest", IngestOptions())
    return folder, then


@pytest.fixture
def side(earlier, monkeypatch):
    _, then = earlier
    made = EarlierSide(np.stack([vector(name) for name in then.items["item_id"]]).astype(np.float32), BOUND)
    monkeypatch.setattr(room, "RetrievalSide", lambda *arguments, **options: made)
    return made


def test_the_view_is_the_dataset_of_that_day(dataset):  # noqa: F811
    view = as_of(dataset, BOUND)
    before, now = dataset.events, view.events
    trained = before["split"] == TRAIN
    assert (now["split"][trained & (before["timestamp"] <= BOUND)] == TRAIN).all()
    assert (now["split"][trained & (before["timestamp"] > BOUND)] == VALID).all()
    assert (now["split"][~trained] > VALID).all()
    expected = before[trained & (before["timestamp"] <= BOUND) & before["positive"]]["item"]
    np.testing.assert_array_equal(view.counts, np.bincount(expected, minlength=len(view.counts)))


def test_requests_are_of_the_days_between_and_answers_are_the_earlier_runs(dataset, earlier, side):  # noqa: F811
    made = earlier_fold(dataset, earlier[0], CONFIG)
    assert len(made.fold.requests)
    assert made.fold.requests.timestamp.min() > BOUND
    assert made.fold.requests.timestamp.max() < BEGIN
    names = dataset.items["item_id"].to_numpy()
    lists = made.fold.lists(made.dataset, made.item_embeddings, CONFIG, [1])
    check_lists(made.dataset, lists, window_seconds=CONFIG.request_seconds)
    listed = set(names[lists.candidates[lists.mask]]) | set(names[made.fold.rows[made.fold.rows > 0]])
    assert not listed & {"i3", "i4"}  # the earlier index did not hold them
    for line in range(0, len(lists), 5):
        history = [vector(name) if name not in ("i3", "i4") else np.zeros(5) for name in names[lists.history[line]]]
        asked = np.mean(history, axis=0) + 0.1
        for place in np.flatnonzero(lists.mask[line]):
            expected = asked @ vector(names[lists.candidates[line, place]])
            assert lists.retrieval_scores[line, place] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("last", [BEGIN, START + 60 * DAY])
def test_a_run_that_saw_the_labels_is_refused(dataset, earlier, side, last):  # noqa: F811
    side.last = last
    with pytest.raises(LeakError, match=r"ranking\.previous_run.*was trained on events until"):
        earlier_fold(dataset, earlier[0], CONFIG)


def test_a_run_that_saw_them_under_another_date_is_refused(dataset, earlier, side):  # noqa: F811
    """Its log says that it ends on day 12, but it ends on day 9 of ours: three days of our labels are in it."""
    side.last = BOUND - 3 * DAY
    with pytest.raises(LeakError, match=r"of the pairs it would be asked about, such as event \d+ \(user 'u\d+'"):
        earlier_fold(dataset, earlier[0], CONFIG)


def test_a_run_that_says_nothing_is_refused(dataset, earlier, side, monkeypatch):  # noqa: F811
    monkeypatch.setattr(EarlierSide, "records", [])
    with pytest.raises(LeakError, match="nothing says until when"):
        earlier_fold(dataset, earlier[0], CONFIG)


def test_rescaling_moves_scores_and_keeps_ranks(dataset, earlier, side):  # noqa: F811
    made = earlier_fold(dataset, earlier[0], CONFIG)
    fold, embeddings = rescaled(made.fold, made.item_embeddings, 3.0, -2.0)
    plain, moved = (
        part.lists(made.dataset, vectors, CONFIG, [1])
        for part, vectors in ((made.fold, made.item_embeddings), (fold, embeddings))
    )
    np.testing.assert_array_equal(plain.candidates, moved.candidates)
    # An item that was itself retrieved may stand before or after its own score: float32 sums differ in the last bit.
    np.testing.assert_allclose(plain.retrieval_ranks, moved.retrieval_ranks, atol=1)
    expected = np.where(plain.mask, 3 * plain.retrieval_scores - 2, 0)
    np.testing.assert_allclose(moved.retrieval_scores, expected, atol=1e-4)


def test_each_source_shows_what_was_known_then(dataset, store, earlier, side):  # noqa: F811
    made = earlier_fold(dataset, earlier[0], CONFIG)
    fold = retrieve_fold(dataset, "valid", query, search, CONFIG, known_splits=("train",), query_history=LENGTH)
    lists = fold.lists(dataset, EMBEDDINGS, CONFIG, [1])
    begin = int(made.fold.requests.timestamp.min())
    ranker = build_ranker(
        dataset,
        store,
        EMBEDDINGS,
        fold,
        lists,
        ("click",),
        CONFIG,
        known_splits=FOLDS,
        first_request=begin,
        also=made.fold.requests,
    )  # fmt: skip
    own = own_source(dataset, fold, EMBEDDINGS, ranker)
    source = earlier_source(made, own, ranker, CONFIG)
    drawn = source.lists(CONFIG, 0)
    scores = drawn.retrieval_scores[drawn.mask]
    assert scores.mean() == pytest.approx(ranker.spec.score_center, abs=1e-3)
    assert scores.std() == pytest.approx(ranker.spec.score_scale, rel=1e-3)
    behaviour = list(ranker.spec.modalities).index("behaviour")
    source.enter(ranker)
    check_counts_read(made.dataset, ranker)
    assert not np.asarray(ranker.content.present.table)[:, behaviour].any()
    with pytest.raises(LeakError):
        check_counts_read(dataset, ranker)
    own.enter(ranker)
    check_counts_read(dataset, ranker)
    assert np.asarray(ranker.content.present.table)[1:, behaviour].all()


def test_the_ranker_learns_from_both(dataset, store, earlier, side, tmp_path):  # noqa: F811
    made, steps = earlier_fold(dataset, earlier[0], CONFIG), []
    train_ranking(
        dataset, store, EMBEDDINGS, query, search, tmp_path, tmp_path / "checkpoints", CONFIG,
        query_history=LENGTH, earlier=made, progress=lambda what, done, total: steps.append((done, total)),
    )  # fmt: skip
    own = retrieve_fold(dataset, "valid", query, search, CONFIG, known_splits=("train",), query_history=LENGTH)
    learners = [made.fold, own.take(np.flatnonzero(~hold_out_requests(own.requests, CONFIG)))]
    expected = sum(-(-len(part.requests) // CONFIG.batch_lists) for part in learners)
    assert steps == [(done, expected) for done in range(1, expected + 1)]
    form = RankingServingForm.load(tmp_path / "serving_form")
    assert all(np.isfinite(weight).all() for weight in form.get_weights())
    known = np.asarray(form.network.features.side.tables["user_known"]).astype(bool)
    theirs = set(np.concatenate([part.requests.user for part in learners]))
    assert set(np.flatnonzero(known)) == theirs
