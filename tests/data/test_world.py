"""The demo world keeps its promises: bytes, counts, causes that are visible where they should be, and a true oracle."""

import dataclasses
import hashlib
import wave

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import chi2_contingency

from data.world import WorldConfig, generate_world, item_table, load_oracle
from data.world_config import DAY, END, STYLES
from data.world_covers import paint_cover
from data.world_events import OUTCOMES, calibrated, simulate_events
from data.world_sound import RATE, play_clip
from data.world_tastes import draw_tastes
from data.world_text import _CHINESE, _SENTENCES, THEMES, write_text

SMALL = WorldConfig(items=60, users=40, events=900)
MIDDLE = WorldConfig(items=600, users=500, events=20_000)


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "small"
    return folder, generate_world(folder, SMALL)


@pytest.fixture(scope="module")
def middle():
    tastes = draw_tastes(MIDDLE)
    return tastes, simulate_events(tastes)


def test_same_seed_same_bytes_and_another_seed_others(small, tmp_path):
    folder, counts = small
    assert generate_world(tmp_path / "again", SMALL) == counts
    assert digest(tmp_path / "again") == digest(folder)
    generate_world(tmp_path / "other", dataclasses.replace(SMALL, seed=8))
    other = digest(tmp_path / "other")
    assert all(
        other[name] != value
        for name, value in digest(folder).items()
        if (name.endswith(("s.parquet", ".npy")) and not name.startswith("oracle/")) or name.endswith("preference.npy")
    )


def test_folder_holds_what_the_counts_say(small):
    folder, counts = small
    events = pd.read_parquet(folder / "interactions.parquet")
    items = pd.read_parquet(folder / "items.parquet")
    users = pd.read_parquet(folder / "users.parquet")
    assert (counts["users"], counts["items"], counts["events"]) == (40, 60, 900)
    assert (len(users), len(items), len(events)) == (40, 60, 900)
    assert {name: counts[name] for name in OUTCOMES} == events["event"].value_counts().reindex(
        OUTCOMES, fill_value=0
    ).to_dict()
    assert set(events["user_id"]) == set(users["user_id"])
    assert events["timestamp"].is_monotonic_increasing
    assert events["timestamp"].between(SMALL.start, END - 1).all()
    assert events["hour"].between(0, 23).all()
    assert (
        len(list((folder / "media/covers").iterdir()))
        == items["image"].notna().sum()
        == 60 - counts["items_without_image"]
    )
    assert (
        len(list((folder / "media/clips").iterdir()))
        == items["audio"].notna().sum()
        == 60 - counts["items_without_audio"]
    )
    assert not list(folder.parent.glob(".*")), "the folder written beside must be gone"


def test_media_are_what_the_format_says(small):
    folder, _ = small
    items = pd.read_parquet(folder / "items.parquet")
    with Image.open(folder / "media" / items["image"].dropna().iloc[0]) as cover:
        assert (cover.format, cover.mode, cover.size) == ("PNG", "RGB", (128, 128))
    with wave.open(str(folder / "media" / items["audio"].dropna().iloc[0])) as clip:
        assert (clip.getframerate(), clip.getnchannels(), clip.getsampwidth(), clip.getnframes()) == (
            16000,
            1,
            2,
            48000,
        )
        assert np.abs(np.frombuffer(clip.readframes(48000), "<i2")).max() > 10_000


def test_refuses_a_folder_in_use_and_leaves_nothing_after_a_failure(small, tmp_path):
    folder, _ = small
    with pytest.raises(FileExistsError, match="out: must not exist"):
        generate_world(folder, SMALL)

    def fail(step, done, total):
        if step == "media" and done == 5:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        generate_world(tmp_path / "half", SMALL, fail)
    assert list(tmp_path.iterdir()) == []


def test_oracle_is_the_preference_written_out(small):
    folder, _ = small
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


def test_factors_are_independent_of_each_other_and_of_every_column(middle):
    tastes, _ = middle
    items = item_table(tastes, [f"r{index}" for index in range(MIDDLE.items)])
    columns = {f"factor {factor}": tastes.style[:, factor] for factor in range(4)}
    columns |= {"domain": items["domain"], "categories": items["categories"].str.split("|").str[0]}
    columns |= {"price": pd.qcut(items["price"], 4, labels=False), "missing image": items["image"].isna()}
    columns |= {"maker": items["creator"].str[-3:].astype(int) % 6}
    for factor in range(4):
        for name, column in columns.items():
            if name != f"factor {factor}":
                test = chi2_contingency(pd.crosstab(tastes.style[:, factor], np.asarray(column)))
                assert test.pvalue > 1e-4, (factor, name, test.pvalue)


def test_missing_shares_and_languages():
    config = WorldConfig(items=2000, users=10, events=100)
    items = item_table(draw_tastes(config), [f"r{index:05d}" for index in range(2000)])
    absent = items[["title", "image", "audio"]].isna()
    assert (absent.sum(axis=1) <= 1).all()
    assert absent.mean().between(0.06, 0.10).all()
    assert (items["title"].isna() == items["description"].isna()).all()
    chinese = items["title"].dropna().str.contains("[\u4e00-\u9fff]")
    assert 0.10 <= chinese.mean() <= 0.14
    assert not items["title"].dropna().duplicated().any()


def test_themes_share_no_subject_words():
    """A theme can be told by its words alone: no sentence of one theme is a phrasing of another."""
    rng = np.random.default_rng(0)
    for chinese, source in ((False, _SENTENCES), (True, _CHINESE)):
        seen = [{write_text(theme, chinese, rng)[1] for _ in range(60)} for theme in range(len(source))]
        assert all(seen[a].isdisjoint(seen[b]) for a in range(len(THEMES)) for b in range(a))
        assert all(len(texts) > 20 for texts in seen)


def test_a_cover_tells_its_style_by_colour():
    """Nearest centroid over mean and deviation of the colours, fitted on other covers."""

    def colours(style, seed):
        pixels = paint_cover(style, np.random.default_rng([9, style, seed])) / 255
        return np.concatenate([pixels.mean((0, 1)), pixels.std((0, 1))])

    centres = np.array([np.mean([colours(style, seed) for seed in range(12)], 0) for style in range(STYLES)])
    hits = [
        np.argmin(((centres - colours(style, seed)) ** 2).sum(1)) == style
        for style in range(6)
        for seed in range(20, 32)
    ]
    assert np.mean(hits) > 0.85


def test_a_clip_tells_its_style_by_its_spectrum():
    """Nearest centroid over the mean and deviation of log band energies, fitted on other clips."""

    def bands(style, seed):
        clip = play_clip(style, np.random.default_rng([9, style, seed])) / 32768
        assert len(clip) == 3 * RATE
        power = np.abs(np.fft.rfft(clip[: 93 * 512].reshape(93, 512) * np.hanning(512))) ** 2
        edges = np.unique(np.geomspace(2, 256, 20).astype(int))
        energy = np.log(np.add.reduceat(power[:, : edges[-1]], edges[:-1], axis=1) + 1e-6)
        return np.concatenate([energy.mean(0), energy.std(0)])

    centres = np.array([np.mean([bands(style, seed) for seed in range(12)], 0) for style in range(STYLES)])
    hits = [
        np.argmin(((centres - bands(style, seed)) ** 2).sum(1)) == style for style in range(6) for seed in range(20, 32)
    ]
    assert np.mean(hits) > 0.85


def recall(scores, seen, users, items, k):
    """Mean recall@k over users, with a loop."""
    scores = np.where(seen, -np.inf, scores)
    values = []
    for user in np.unique(users):
        top = np.argsort(-scores[user], kind="stable")[:k]
        values.append(np.isin(items[users == user], top).mean())
    return float(np.mean(values))


def test_oracle_beats_popularity_and_every_visible_factor_counts_on_cold_items(middle):
    tastes, log = middle
    day = (log["timestamp"] - MIDDLE.start) / DAY
    test, positive = day >= 0.85 * MIDDLE.days, log["event"] != OUTCOMES.index("skip")
    seen = np.zeros((MIDDLE.users, MIDDLE.items), bool)
    seen[log["user"][~test], log["item"][~test]] = True
    users, items = log["user"][test & positive], log["item"][test & positive]
    preference = tastes.preference(MIDDLE.oracle_day)
    counts = np.bincount(log["item"][(day < 0.7 * MIDDLE.days) & positive], minlength=MIDDLE.items)
    oracle = recall(preference, seen, users, items, 20)
    popularity = recall(np.broadcast_to(counts, seen.shape), seen, users, items, 20)
    assert oracle > 0.3 and popularity < 0.3 * oracle

    cold = tastes.release[items] >= 0.7 * MIDDLE.days
    assert cold.mean() > 0.15
    factors = tastes.factors
    cold_recall = []
    for dropped in (None, 0, 1, 2):
        shown = [factor for factor in range(3) if factor != dropped]
        taste = tastes.weight[:, shown, None] * tastes.taste(MIDDLE.oracle_day)[:, shown]
        content = np.einsum("ufs,ifs->ui", taste, factors[:, shown])
        cold_recall.append(recall(content, seen, users[cold], items[cold], 40))
    full = recall(preference, seen, users[cold], items[cold], 40)
    assert cold_recall[0] > 0.65 * full
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
        ({"missing_text": 0.6, "missing_cover": 0.6}, "missing_"),
        ({"days": 0}, "days: must be at least 1"),
    ],
)
def test_impossible_worlds_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize("make", [paint_cover, play_clip, lambda style, rng: write_text(style, False, rng)])
def test_unknown_styles_are_refused(make):
    with pytest.raises(ValueError, match=r"must be in 0\.\.5, received 6"):
        make(6, np.random.default_rng(0))
