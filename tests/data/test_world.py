"""Generated worlds keep their promises: bytes, counts, causes of choice, and a true oracle, whatever the kind."""

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency

from data.ingest import IngestOptions, ingest
from data.world import KINDS, WorldConfig, generate_world, load_oracle, make_scene, world_config
from data.world_config import DAY, END, STYLES
from data.world_events import OUTCOMES, calibrated, simulate_events
from data.world_tastes import draw_tastes

SMALL = WorldConfig(items=60, users=40, events=900)
MIDDLE = WorldConfig(items=600, users=500, events=20_000)
FACTORS_SEEN = 3


def small_world(kind, **changes):
    return world_config(kind, **{"items": 60, "users": 40, "events": 900, **changes})


def tastes_and_items(config):
    tastes = draw_tastes(config)
    return tastes, make_scene(tastes, [f"r{index:05d}" for index in range(config.items)]).items


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Folder and counts of a small world of each kind."""
    folder = tmp_path_factory.mktemp("worlds")
    return {kind: (folder / kind, generate_world(folder / kind, small_world(kind))) for kind in KINDS}


@pytest.fixture(scope="module")
def middle():
    tastes = draw_tastes(MIDDLE)
    return tastes, simulate_events(tastes)


def test_another_process_writes_the_same_bytes(worlds, tmp_path):
    script = (
        "from pathlib import Path; from data.world import KINDS, generate_world, world_config\n"
        "for kind in KINDS: "
        f"generate_world(Path({str(tmp_path)!r}) / kind, world_config(kind, items=60, users=40, events=900))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    for kind, (folder, _) in worlds.items():
        assert digest(tmp_path / kind) == digest(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_changes_every_table_and_every_file(worlds, tmp_path, kind):
    folder, _ = worlds[kind]
    generate_world(tmp_path / "other", small_world(kind, seed=8))
    here, other = digest(folder), digest(tmp_path / "other")
    fixed = {"oracle/users.parquet", "oracle/items.parquet"}  # ids and nothing else
    assert all(other.get(name) != value for name, value in here.items() if name not in fixed)


@pytest.mark.parametrize("kind", KINDS)
def test_folder_holds_what_the_counts_say(worlds, kind):
    folder, counts = worlds[kind]
    events, items, users = (pd.read_parquet(folder / f"{name}.parquet") for name in ("interactions", "items", "users"))
    assert (counts["users"], counts["items"], counts["events"]) == (40, 60, 900)
    assert (len(users), len(items), len(events)) == (40, 60, 900)
    scene = make_scene(draw_tastes(small_world(kind)), [f"r{index:05d}" for index in range(1, 61)])
    assert {name: counts[name] for name in scene.outcomes} == events["event"].value_counts().reindex(
        scene.outcomes, fill_value=0
    ).to_dict()
    assert set(events["user_id"]) == set(users["user_id"])
    assert events["timestamp"].is_monotonic_increasing
    assert events["timestamp"].between(SMALL.start, END - 1).all()
    assert events["hour"].between(0, 23).all()
    named = pd.concat([items[name] for name in ("image", "audio", "video") if name in items]).dropna()
    assert all((folder / "media" / name).is_file() for name in named)
    on_disk = {str(path.relative_to(folder / "media")) for path in (folder / "media").rglob("*") if path.is_file()}
    assert {name for name in on_disk - set(named) if not name.startswith("midi/")} == set(), "every file belongs to an item"
    assert not list(folder.parent.glob(".*")), "the folder written beside must be gone"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_ingested_whole_and_its_oracle_aligns(worlds, tmp_path, kind):
    folder, _ = worlds[kind]
    dataset = ingest(folder, tmp_path, IngestOptions(split="global_time"))
    assert dataset.report["quarantined"] == 0
    oracle = load_oracle(folder)
    assert dataset.items["item_id"].tolist()[1:] == oracle.item_ids
    assert dataset.users["user_id"].tolist()[1:] == oracle.user_ids
    assert oracle.preference.shape == (40, 60) and np.isfinite(oracle.preference).all()
    skipped = dataset.events[~dataset.events["positive"]]
    chosen = dataset.events[dataset.events["positive"]]
    score = [oracle.preference[part["user"] - 1, part["item"] - 1].mean() for part in (chosen, skipped)]
    assert score[0] > score[1] and score[0] > oracle.preference.mean()


def test_refuses_a_folder_in_use_and_leaves_nothing_after_a_failure(worlds, tmp_path):
    folder, _ = worlds["music"]
    with pytest.raises(FileExistsError, match="out: must not exist"):
        generate_world(folder, SMALL)

    def fail(step, done, total):
        if step == "media" and done == 5:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        generate_world(tmp_path / "half", SMALL, fail)
    assert list(tmp_path.iterdir()) == []


def test_oracle_is_the_preference_written_out(worlds):
    folder, _ = worlds["music"]
    oracle, tastes = load_oracle(folder), draw_tastes(SMALL)
    assert oracle.item_ids == pd.read_parquet(folder / "items.parquet")["item_id"].tolist()
    assert oracle.preference.shape == (40, 60) and oracle.preference.dtype == np.float16
    moved = SMALL.drift * (90 * (1 - 0.15 / 2)) / 90
    level = np.log(tastes.price)
    level = (level - level.mean()) / level.std()
    for user, item in [(0, 0), (3, 59), (39, 17)]:
        score = tastes.appeal[item] + tastes.lean[user] * (1 if tastes.domain[item] else -1)
        score -= SMALL.price_strength * (1.6, 1.0, 0.2)[tastes.tier[user]] * level[item]
        for factor in range(4):
            for style in range(STYLES):
                taste = (1 - moved) * tastes.early[user, factor, style] + moved * tastes.late[user, factor, style]
                score += tastes.weight[user, factor] * taste * tastes.factors[item, factor, style]
        assert oracle.preference[user, item] == pytest.approx(score, abs=0.02)
    with pytest.raises(FileNotFoundError, match="oracle"):
        load_oracle(folder / "media")


def test_pairs_are_unique_and_nothing_happens_before_its_time(middle):
    tastes, log = middle
    assert len(log["user"]) == MIDDLE.events
    assert len(np.unique(log["user"] * MIDDLE.items + log["item"])) == MIDDLE.events
    assert (log["timestamp"] >= tastes.created_at[log["item"]]).all()
    assert (log["timestamp"] >= MIDDLE.start + tastes.join[log["user"]] * DAY).all()
    assert np.bincount(log["user"], minlength=MIDDLE.users).min() >= 5
    released = np.bincount(tastes.release[tastes.release >= 0], minlength=MIDDLE.days)
    assert released.min() >= 3 and released.max() <= 4, "releases must come evenly, day by day"


def test_outcome_shares_and_what_drives_them(middle):
    tastes, log = middle
    share = dict(zip(OUTCOMES, np.bincount(log["event"], minlength=4) / MIDDLE.events, strict=True))
    assert 0.15 <= share["skip"] <= 0.20 and 0.08 <= share["purchase"] <= 0.10 and 0.2 < share["like"] < 0.3
    preference = tastes.match(45.0)[log["user"], log["item"]]
    kinds = {name: preference[log["event"] == code].mean() for code, name in enumerate(OUTCOMES)}
    assert kinds["skip"] < kinds["view"] < kinds["like"] and kinds["view"] < kinds["purchase"]
    cheap = tastes.price[log["item"]] < np.median(tastes.price)
    bought, poor = log["event"] == OUTCOMES.index("purchase"), tastes.tier[log["user"]] == 0
    assert bought[poor & cheap].mean() > 1.5 * bought[poor & ~cheap].mean()


def test_freshness_and_long_tail(middle):
    tastes, log = middle
    age = (log["timestamp"] - tastes.created_at[log["item"]]) // DAY
    new = tastes.release[log["item"]] >= 0
    assert (age[new] < 3).sum() > 1.5 * ((age[new] >= 10) & (age[new] < 13)).sum()
    counts = np.sort(np.bincount(log["item"], minlength=MIDDLE.items))[::-1]
    assert counts[: MIDDLE.items // 10].sum() > 0.2 * MIDDLE.events


@pytest.mark.parametrize("kind", KINDS)
def test_factors_are_independent_of_each_other_and_of_every_other_column(kind):
    tastes, items = tastes_and_items(world_config(kind, items=900, users=40, events=900))
    columns = {f"factor {factor}": tastes.style[:, factor] for factor in range(4)}
    columns |= {"missing text": items["title"].isna(), "day": pd.qcut(tastes.release, 4, labels=False)}
    columns |= {name: pd.qcut(items[name], 4, labels=False) for name in ("price",) if name in items}
    columns["maker"] = items[next(name for name in ("creator", "brand", "channel") if name in items)].str[-3:].astype(int) % 6
    columns |= {"category": items["categories"].str.split("|").str[0], "domain": items["domain"]}
    columns |= {name: items[name] for name in ("colour", "size") if name in items}
    for factor in range(4):
        for name, column in columns.items():
            if name != f"factor {factor}":
                test = chi2_contingency(pd.crosstab(tastes.style[:, factor], np.asarray(column)))
                assert test.pvalue > 1e-4, (factor, name, test.pvalue)


@pytest.mark.parametrize("kind", KINDS)
def test_shares_of_what_is_missing_and_of_languages(kind):
    config = world_config(kind, items=2000, users=10, events=100)
    _, items = tastes_and_items(config)
    absent = pd.DataFrame({"text": items["title"].isna()})
    if kind != "video":
        absent["picture"] = items["image"].isna()
        absent["third"] = items["audio" if kind == "music" else "material"].isna()
    else:
        absent["picture"] = items["video"].isna()
        assert (items["audio"].notna() == items["video"].isna()).all(), "what has no frames keeps its sound"
    assert (absent.sum(axis=1) <= 1).all()
    assert absent.mean().between(0.06, 0.10).all()
    if kind != "video":
        assert (items["title"].isna() == items["description"].isna()).all()
    chinese = items["title"].dropna().str.contains("[\u4e00-\u9fff]")
    assert abs(chinese.mean() - config.chinese_share) < 0.03
    assert not items["title"].dropna().duplicated().any()


def recall(scores, seen, users, items, k):
    """Mean recall@k over users, with a loop."""
    scores = np.where(seen, -np.inf, scores)
    values = []
    for user in np.unique(users):
        top = np.argsort(-scores[user], kind="stable")[:k]
        values.append(np.isin(items[users == user], top).mean())
    return float(np.mean(values))


@pytest.mark.parametrize("kind", KINDS)
def test_oracle_beats_popularity_and_every_visible_factor_counts_on_cold_items(kind):
    config = world_config(kind, items=600, users=500, events=20_000)
    tastes = draw_tastes(config)
    log = simulate_events(tastes)
    day = (log["timestamp"] - config.start) / DAY
    test, positive = day >= 0.85 * config.days, log["event"] != OUTCOMES.index("skip")
    seen = np.zeros((config.users, config.items), bool)
    seen[log["user"][~test], log["item"][~test]] = True
    users, items = log["user"][test & positive], log["item"][test & positive]
    preference = tastes.preference(config.oracle_day)
    counts = np.bincount(log["item"][(day < 0.7 * config.days) & positive], minlength=config.items)
    oracle = recall(preference, seen, users, items, 20)
    popularity = recall(np.broadcast_to(counts, seen.shape), seen, users, items, 20)
    assert oracle > 0.3 and popularity < 0.3 * oracle

    cold = tastes.release[items] >= 0.7 * config.days
    assert cold.mean() > 0.15
    factors = tastes.factors
    cold_recall = []
    for dropped in (None, 0, 1, 2):
        shown = [factor for factor in range(FACTORS_SEEN) if factor != dropped]
        taste = tastes.weight[:, shown, None] * tastes.taste(config.oracle_day)[:, shown]
        content = np.einsum("ufs,ifs->ui", taste, factors[:, shown])
        cold_recall.append(recall(content, seen, users[cold], items[cold], 40))
    full = recall(preference, seen, users[cold], items[cold], 40)
    assert cold_recall[0] > 0.6 * full
    assert all(without < 0.92 * cold_recall[0] for without in cold_recall[1:])


def test_calibrated_meets_its_share():
    logit = np.random.default_rng(0).normal(0, 2, 500)
    weight = np.random.default_rng(1).random(500)
    probability = calibrated(logit, weight, 0.1)
    assert np.mean(weight * probability) == pytest.approx(0.1, abs=1e-9)
    assert (np.argsort(probability) == np.argsort(logit)).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"events": 10}, "events: must be at least users"),
        ({"events": 40 * 30 + 1}, "events: must be at most users"),
        ({"items": 5}, "items: half of them"),
        ({"skip_share": 1.5}, "skip_share"),
        ({"missing_text": 0.6, "missing_picture": 0.6}, "missing_"),
        ({"days": 0}, "days: must be at least 1"),
        ({"kind": "zoo"}, "kind: must be among"),
    ],
)
def test_impossible_worlds_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SMALL, **change)
