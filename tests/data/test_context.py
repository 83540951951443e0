"""Context of events: coded like profile columns, aligned with its events whatever is refused, removed or reordered."""

import numpy as np
import pandas as pd
import pytest

from data.dataset import Dataset
from data.ingest import IngestOptions, ingest
from data.readers_table import TableOptions, convert_table
from data.validation import DatasetError
from data.world_config import DAY, WorldConfig
from data.world_events import choose, simulate_events
from data.world_pages import DEVICES, draw_pages
from data.world_tastes import draw_tastes

NOW = 1_700_000_000
OPTIONS = IngestOptions(split="random", now=NOW, seed=1)


def log_of(seed=0, events=300):
    """Events of every sort, some refused, with context that says which event a row is."""
    rng = np.random.default_rng(seed)
    item = rng.integers(0, 12, events)
    return pd.DataFrame(
        {
            "user_id": ["rare", "rare", *(f"u{row}" for row in rng.integers(0, 9, events - 2))],
            "item_id": [f"i{row}" for row in item],
            "timestamp": rng.integers(NOW - 1000, NOW, events),
            "event": rng.choice(["view", "skip"], events),
            "device": rng.choice(["phone", "tv", None], events),
            "hour": rng.integers(0, 24, events),
            "speed": rng.random(events) + np.arange(2)[rng.integers(0, 2, events)],
            "position": np.where(rng.random(events) < 0.2, np.nan, rng.integers(1, 9, events)),
            "propensity": np.where(rng.random(events) < 0.2, None, rng.integers(1, 11, events) / 10),
            "place_propensity": np.where(rng.random(events) < 0.2, None, rng.integers(1, 11, events) / 10),
            "review": [f"words {row}" for row in range(events)],
            "row": np.arange(events),
        }
    )


def ingested(log, folder, options=OPTIONS):
    folder.mkdir()
    log.to_parquet(folder / "interactions.parquet", index=False)
    return ingest(folder, folder / "out", options)


def test_codes_and_numbers_belong_to_their_events(tmp_path):
    log = log_of()
    dataset = ingested(log.drop(columns="row"), tmp_path / "log", IngestOptions(split="random", now=NOW, k_core=4))
    assert list(dataset.schema.context) == ["device", "hour", "speed"]
    assert {name: len(values) for name, values in dataset.context_vocabulary.items()} == dataset.schema.context
    assert dataset.report["removed_by_k_core"]
    assert dataset.report["ignored_columns"]["interactions"] == {"review": "not used by the models"}
    assert dataset.context.shape == (len(dataset.events), 3)
    named = pd.DataFrame(
        {
            "user_id": dataset.users["user_id"].to_numpy()[dataset.events["user"]],
            "item_id": dataset.items["item_id"].to_numpy()[dataset.events["item"]],
            "timestamp": dataset.events["timestamp"],
            "event": np.where(dataset.positive, "view", "skip"),
        }
    )
    keys = ["user_id", "item_id", "timestamp", "event"]
    theirs = named.merge(log.drop_duplicates(keys), on=keys, how="left", validate="one_to_one")
    device = np.array(dataset.context_vocabulary["device"], object)[dataset.context[:, 0]]
    assert device.tolist() == theirs["device"].fillna("").tolist()
    hour = np.array(dataset.context_vocabulary["hour"], object)[dataset.context[:, 1]]
    assert hour.tolist() == theirs["hour"].astype(str).tolist()
    np.testing.assert_array_equal(dataset.position, theirs["position"].fillna(0))
    for name in ("propensity", "place_propensity"):
        np.testing.assert_allclose(getattr(dataset, name), theirs[name].astype(float))
    again = Dataset.load(dataset.folder)
    assert again.context_vocabulary == dataset.context_vocabulary
    pd.testing.assert_frame_equal(again.events, dataset.events)


def test_a_log_without_any_has_none(tmp_path):
    dataset = ingested(log_of()[["user_id", "item_id", "timestamp"]], tmp_path / "log")
    assert dataset.context.shape == (len(dataset.events), 0)
    assert not dataset.position.any()
    assert np.isnan(dataset.propensity).all()


def test_context_can_be_named(tmp_path):
    dataset = ingested(log_of(), tmp_path / "log", IngestOptions(split="random", now=NOW, context=("device",)))
    assert list(dataset.schema.context) == ["device"]
    assert set(dataset.report["ignored_columns"]["interactions"]) == {"hour", "speed", "review", "row"}
    with pytest.raises(DatasetError, match="meaning of their own"):
        IngestOptions(context=("value",))
    with pytest.raises(DatasetError, match="weather"):
        ingested(log_of(), tmp_path / "other", IngestOptions(split="random", now=NOW, context=("weather",)))


def test_convert_keeps_the_context_that_is_named(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    log_of().rename(columns={"device": "ua"}).to_csv(source / "log.csv", index=False)
    options = TableOptions(interactions="log.csv", columns={"interactions": {"device": "ua", "hour": "hour"}})
    convert_table(source, tmp_path / "out", options)
    columns = pd.read_parquet(tmp_path / "out" / "interactions.parquet").columns
    placed = {"position", "propensity", "place_propensity"}
    assert set(columns) == {"user_id", "item_id", "timestamp", "event", "device", "hour", *placed}


@pytest.fixture(scope="module")
def world():
    config = WorldConfig(items=60, users=40, events=900)
    log = simulate_events(draw_tastes(config))
    return config, log, draw_pages(config, log)


def test_a_page_holds_a_visit_in_random_order(world):
    config, log, pages = world
    frame = pd.DataFrame({"user": log["user"], "day": (log["timestamp"] - config.start) // DAY} | pages)
    for _, visit in frame.groupby(["user", "day"]):
        assert sorted(visit["position"]) == list(range(1, len(visit) + 1))
        assert visit["device"].nunique(dropna=False) == 1
    assert set(frame["device"].dropna()) == set(DEVICES)
    assert 0 < frame["device"].isna().sum() < len(frame) / 4
    # Nobody chooses by place: its correlation with how well an item goes down is noise (standard error .04 here).
    several = frame.groupby(["user", "day"])["position"].transform("size") > 1
    assert abs(np.corrcoef(frame["position"][several], log["match"][several])[0, 1]) < 0.15


def test_propensities_are_inclusion_probabilities():
    """Sums of f / p over what was chosen average to the sum of f over all that could have been; f is a share of 1."""
    rng = np.random.default_rng(0)
    trials, items = 20_000, 8
    logits = np.tile(rng.normal(size=items), (trials, 1))
    allowed = np.tile(np.arange(items) != 5, (trials, 1))
    wanted = rng.integers(1, 8, trials)  # 7 are allowed: then nothing is left out
    line, place, column, propensity = choose(logits, rng.gumbel(size=logits.shape), allowed, wanted)
    np.testing.assert_array_equal(np.bincount(line), wanted)
    assert (place < wanted[line]).all()
    assert not (column == 5).any()
    assert ((propensity > 0) & (propensity <= 1)).all()
    assert (propensity[wanted[line] == 7] == 1).all()
    share = np.where(allowed[0], np.exp(logits[0]), 0) / np.exp(logits[0])[allowed[0]].sum()
    for size in (1, 3, 6):
        mine = wanted[line] == size
        estimates = np.bincount(line[mine], share[column[mine]] / propensity[mine], minlength=trials)[wanted == size]
        assert estimates.mean() == pytest.approx(1.0, abs=4 * estimates.std() / np.sqrt(len(estimates)))
        assert 4 * estimates.std() / np.sqrt(len(estimates)) < 0.2
