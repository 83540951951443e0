"""Attacks on what a run serves: lists against a full ranking, exposure raised and brought back, the report's part of it."""

import json

import keras
import numpy as np
import pandas as pd
import pytest

from data.burst_weights import burst_weights
from data.ingest import IngestOptions, ingest
from data.schema import TRAIN
from data.shilling import ShillingAttack, shilling_events
from data.suspects import Suspects
from pipeline.metrics.interactions import Interactions
from pipeline.metrics.metrics import mean_over_users, ndcg_at_k
from pipeline.metrics.top_k import top_k
from pipeline.report.robustness import plot_robustness, robustness_tables, robustness_words
from pipeline.retrieval.linear_judge import LinearJudge
from pipeline.retrieval.linear_stage import fit_linear
from pipeline.retrieval.served import load_served
from pipeline.retrieval.served_stage import build_served
from pipeline.retrieval.train_retrieval import train_retrieval
from pipeline.retrieval.training_matrix import training_matrix
from pipeline.robustness import shilling_update
from pipeline.robustness.content_attack import AttackedItems, attack_content
from pipeline.robustness.content_defences import denoised, with_towers
from pipeline.robustness.poisoned_log import training_log, with_training_events, without_users
from pipeline.robustness.shilling_attack import ShillingJudge, attack_by_shilling, detection
from pipeline.robustness.stage import measure_robustness, some_requests
from pipeline.robustness.target_exposure import TargetExposure
from pipeline.settings.config import load_config
from pipeline.settings.robustness import RobustnessSection
from tests.pipeline.training_world import make_world

DAY = 86_400
CHOSEN = {"l2": 5.0, "dropout": 0.0, "user_power": 0.0, "content": 0.0, "width": 40}


def silent(what, done, total):
    return None


def test_lists_with_one_item_moved_are_those_of_a_full_ranking():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 9, (30, 13)).astype(np.float32)
    seen = Interactions.from_lists([rng.choice(np.arange(1, 13), 3, replace=False) for _ in range(30)])
    relevant = Interactions.from_lists([rng.choice(np.arange(1, 13), 2, replace=False) for _ in range(30)])
    judge = TargetExposure(scores.copy(), seen, relevant, 4)
    for target in range(1, 13):
        moved = rng.integers(0, 9, 30).astype(np.float32)
        figures = judge.figures(target, moved)
        other = scores.copy()
        other[:, target] = moved
        ranked, _ = top_k(lambda part, table=other: table[part].copy(), np.arange(30), seen, 12)
        free = np.array([target not in seen[user] for user in range(30)])
        place = np.array([1 + list(ranked[user]).index(target) for user in np.flatnonzero(free)])
        assert figures["rank"] == pytest.approx(place.mean())
        assert figures["reach"] == pytest.approx((place <= 4).mean())
        assert figures["exposure"] == pytest.approx(np.where(place <= 4, 1 / np.log2(1 + place), 0).mean())
        assert figures["ndcg"] == pytest.approx(mean_over_users(ndcg_at_k(ranked[:, :4], relevant, 4)))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """600 people in six groups of taste, 200 items, 70 days; the split is by time."""
    rng, folder = np.random.default_rng(3), tmp_path_factory.mktemp("shop")
    liking = np.where(np.arange(200) % 6 == np.arange(6)[:, None], 12.0, 1.0) / np.sqrt(1 + np.arange(200))
    rows = []
    for user in range(600):
        for item in rng.choice(200, rng.integers(8, 33), replace=False, p=liking[user % 6] / liking[user % 6].sum()):
            rows.append((f"u{user}", f"i{item:03d}", 1_600_000_000 + int(rng.integers(70 * DAY)), "view"))
    (folder / "source").mkdir()
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "event"])
    frame.to_parquet(folder / "source" / "interactions.parquet")
    return ingest(folder / "source", folder / "ingest", IngestOptions())


def test_shilling_raises_exposure_and_setting_suspects_aside_brings_it_back(shop):
    judge = ShillingJudge(shop, {}, CHOSEN, ("train", "valid"), 10)
    section = RobustnessSection(users=50, fillers=15, shilling_kinds=("average", "bandwagon"), share=0.1)
    found = attack_by_shilling(judge, np.argsort(shop.counts[1:])[20:23] + 1, section)
    clean = found["clean"]["none"]
    assert found["clean"]["quarantine"]["honest"] == 0 and found["clean"]["quarantine"]["reach"] == clean["reach"]
    for lines in found["attacks"].values():
        pushed, kept = lines["none"], lines["quarantine"]
        assert pushed["reach"][0] > clean["reach"][0] + 0.02 and pushed["rank"][0] < clean["rank"][0] - 10
        assert kept["recall"] > 0.9 and kept["precision"] > 0.85
        assert abs(kept["reach"][0] - clean["reach"][0]) < 0.2 * (pushed["reach"][0] - clean["reach"][0])
        assert lines["burst_weights"]["reach"][0] < pushed["reach"][0]
        assert kept["ndcg"][0] > 0.97 * clean["ndcg"][0]


def test_every_log_is_updated_on_and_a_quarantine_takes_the_push_back(shop, tmp_path, monkeypatch):
    asked, targets = [], np.argsort(shop.counts[1:])[20:22] + 1
    overrides = ["robustness.users=50", "robustness.fillers=15", "robustness.shilling_kinds=[\"bandwagon\"]"]
    config = load_config(overrides=overrides)

    def popularity(dataset, store, run, folder, config, since, progress):
        """Models that know how often an item was chosen since then."""
        folder.mkdir()
        events = dataset.events[(dataset.events["timestamp"] > since) & (dataset.events["split"] == TRAIN)]
        asked.append((since, len(events)))
        return np.bincount(events["item"], minlength=dataset.schema.item_rows)

    def figures(counts, dataset, requests, targets, config):
        return [({"rank": float((counts > counts[row]).sum())}, {"reach": float(counts[row])}) for row in targets]

    monkeypatch.setattr(shilling_update, "updated_models", popularity)
    monkeypatch.setattr(shilling_update, "final_figures", figures)
    found = shilling_update.attack_by_update(shop, None, tmp_path, tmp_path, config, None, targets, silent)
    assert {since for since, _ in asked} == {int(shop.events.loc[shop.events["split"] == TRAIN, "timestamp"].max() - 7 * DAY)}
    assert [number - asked[0][1] for _, number in asked[1::2]] == [800, 800] and not any(tmp_path.iterdir())
    clean, pushed, kept = (found["lines"][name] for name in ("clean", "none", "quarantine"))
    assert pushed["final"]["reach"][0] == clean["final"]["reach"][0] + 50 and pushed["retrieval"]["rank"][0] < 3
    assert kept["final"]["reach"][0] < clean["final"]["reach"][0] + 0.2 * 50 and kept["recall"] > 0.8


def test_events_of_new_users_join_the_training_split_and_leave_it_again(shop):
    rows = shilling_events(training_log(shop), "i150", ShillingAttack(users=5, fillers=4, event="like"))
    attacked = with_training_events(shop, rows)
    attacked.check()
    assert attacked.schema.user_rows == shop.schema.user_rows + 5 and len(attacked.events) == len(shop.events) + 25
    row = int(shop.item_ids.rows(np.array(["i150"], dtype=object))[0])
    assert attacked.counts[row] == shop.counts[row] + 5 and attacked.counts.sum() == shop.counts.sum() + 25
    gone = without_users(attacked, np.arange(attacked.schema.user_rows) >= shop.schema.user_rows)
    pd.testing.assert_frame_equal(gone.events, shop.events)
    np.testing.assert_array_equal(gone.counts, shop.counts)
    with pytest.raises(ValueError, match="rows: must name known items, received 'nowhere'"):
        with_training_events(shop, rows.assign(item_id="nowhere"))


def test_a_training_matrix_counts_a_burst_like_a_loop_over_events(shop):
    rows = shilling_events(training_log(shop), "i150", ShillingAttack(users=80, fillers=4, event="like"))
    attacked = with_training_events(shop, rows)
    events = attacked.events[(attacked.events["split"] == 0) & attacked.events["positive"]]
    weights = burst_weights(events["item"].to_numpy(), events["timestamp"].to_numpy(), 2.0)
    expected = np.zeros((attacked.schema.user_rows, attacked.schema.item_rows), np.float32)
    for user, item, weight in zip(events["user"], events["item"], weights, strict=True):
        expected[user, item] = max(expected[user, item], weight)
    np.testing.assert_allclose(training_matrix(attacked, 2.0).toarray(), expected, rtol=1e-6)
    np.testing.assert_array_equal(training_matrix(attacked).toarray(), expected > 0)
    assert (expected[expected > 0] < 1).any()
    judge = LinearJudge(attacked, 100, 7, burst_bound=2.0)
    assert set(np.unique(judge.taken.data)) == {1.0} and judge.train.data.min() < 1


def test_precision_and_recall_of_suspects():
    found = Suspects(np.zeros(10), np.array([0, 0, 1, 0, 0, 0, 1, 1, 1, 0], bool), np.array([3]))
    assert detection(found, honest_rows=6) == {"recall": 0.75, "precision": 0.75, "honest": 1.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder up to `train-linear`, and the settings of a small robustness stage."""
    folder = tmp_path_factory.mktemp("run")
    world = make_world(tmp_path_factory.mktemp("world"))
    trained, linear, served = (folder / name / "full" for name in ("retrieval", "linear", "served"))
    for path in (trained, linear, served):
        path.mkdir(parents=True)
    overrides = ["retrieval.width=8", "retrieval.history_length=4", "retrieval.batch_size=64", "retrieval.epochs=2",
                 "linear.width=8", "linear.parts=[\"closed_form\"]", "linear.l2=[1.0, 5.0]", "robustness.targets=3",
                 "robustness.shilling_targets=2", "robustness.users=6", "robustness.fillers=4", "robustness.updates=0",
                 "robustness.epsilons=[0.1, 1.0]", "robustness.k=3", "robustness.shilling_kinds=[\"random\"]",
                 "robustness.content_rank=2", "robustness.adversarial=0.0"]  # fmt: skip
    config = load_config(overrides=overrides)
    _, dataset, store = world
    train_retrieval(dataset, store, trained, folder / "ck", config.retrieval, modalities=("text",), progress=silent)
    info = fit_linear(dataset, store, linear, folder / "cl", config.linear, modalities=("text",), progress=silent)
    (linear / "manifest.json").write_text(json.dumps({"counts": info}))
    build_served(dataset, store, trained, linear, served, config.linear, modalities=("text",))
    return folder, world, config


def test_content_attacks_gain_reach_and_a_placed_item_is_served_as_its_content_says(run):
    folder, (_, dataset, store), config = run
    served = load_served(folder)
    requests = some_requests(dataset, config, served.history_length)
    queries = served.queries(dataset.profile, requests.users, requests.history)
    for rows in (np.flatnonzero(dataset.counts == 0)[1:], np.flatnonzero(dataset.counts > 0)[:4]):
        items = AttackedItems.of(dataset, store, served, rows)
        np.testing.assert_allclose(items.vectors({}), served.items[rows], atol=1e-3)
        judge = TargetExposure(queries @ served.items.T, requests.seen, requests.relevant, 3)
        lines = attack_content(items, judge, queries, epsilons=(0.1, 1.0), contents=("text",), steps=5)
        assert [(line["method"], line["epsilon"]) for line in lines] == [
            ("none", 0.0), ("fgsm", 0.1), ("pgd", 0.1), ("fgsm", 1.0), ("pgd", 1.0)
        ]  # fmt: skip
        assert lines[-1]["reach"][0] >= lines[0]["reach"][0] and lines[-1]["rank"][0] < lines[0]["rank"][0]
        assert all(low - 1e-9 <= mean <= high + 1e-9 for mean, low, high in (line["rank"] for line in lines))


def test_denoised_content_moves_nothing_outside_its_components(run):
    folder, (_, dataset, store), _ = run
    served = load_served(folder)
    if served.ensemble is None:
        pytest.skip("the two towers alone are served in this world")
    plain = denoised(served, dataset, store, 5)
    np.testing.assert_allclose(plain.ensemble.linear.items, served.ensemble.linear.items, atol=1e-3)
    layer = denoised(served, dataset, store, 2).content_map
    kernel = keras.ops.convert_to_numpy(layer.kernels[0])
    assert np.linalg.matrix_rank(kernel, tol=1e-4 * np.abs(kernel).max()) == 2


def test_other_towers_take_their_place_in_the_same_mixture(run):
    folder, (_, dataset, _), _ = run
    served = load_served(folder)
    again = with_towers(served, folder / "retrieval" / "full")
    np.testing.assert_allclose(again.items, served.items, atol=1e-6)
    asked = dataset.profile, np.array([3]), np.array([[2, 5]], np.int32)
    np.testing.assert_allclose(again.queries(*asked), served.queries(*asked), atol=1e-5)


def test_the_stage_measures_everything_and_the_report_shows_it(run, tmp_path):
    folder, (source, dataset, store), config = run
    found = measure_robustness(dataset, store, source, folder, tmp_path, tmp_path / "scratch", config, silent)
    assert json.loads((tmp_path / "robustness.json").read_text()) == found
    assert set(found["content"]) == {"none", "denoised_content"}
    assert set(found["shilling"]["closed_form"]["attacks"]) == {"random"}
    # Trainings for every log would be the suite's slowest test, and this run has no ranker; what they leave has this form.
    assert "updated" not in found["shilling"] and "ranker" not in found
    line = found["shilling"]["closed_form"]["clean"]["none"]
    lines = {name: {"retrieval": line, "final": line} for name in ("clean", "none", "quarantine")}
    lines["quarantine"] |= {"recall": 1.0, "precision": 0.5, "honest": 2.0}
    found["shilling"]["updated"] = {"kind": "random", "targets": 2, "lines": lines}
    attack = {**line, "retrieved": line["reach"], "epsilon": 0.1}
    found["ranker"] = {"users": 5, "lines": {"none": {"new": [{**attack, "aim": "ranker", "method": "fgsm"}]}}}
    file = {**line, "defence": "noised", "norm": "of 255", "method": "pgd_guessed", "epsilon": 2.0, "cosine": 0.9}
    found["media"] = {"image": [file], "audio": {"skipped": "no clips"}}
    found["media_cost"] = {"image": {"noised": {"ndcg": 0.1, "ndcg_new": 0.05, "seconds": 0.02}}}
    tables = {table.name: table for table in robustness_tables(found)}
    assert set(tables) == {
        "content-attacks", "ranker-attacks", "media-attacks", "media-cost", "shilling", "shilling-updated"
    }  # fmt: skip
    for table in tables.values():
        assert all(len(row) == len(table.columns) for row in table.rows)
    shown = json.dumps([table.rows for table in tables.values()], ensure_ascii=False)
    assert "PGD" in shown and "quarantine of suspects" in shown and "–" in shown
    plot = plot_robustness(found)
    assert plot is not None and plot.svg.count("<svg") == 2 and "random shilling" in plot.alt
    assert robustness_words(found).startswith("6 fake users (random) carry an item to")
    assert robustness_tables({}) == [] and plot_robustness({}) is None
