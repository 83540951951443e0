"""Shilling: what an attack adds to a log, who is found to have done it, and what an item's sudden week counts."""

import numpy as np
import pandas as pd
import pytest

from data.burst_weights import burst_weights
from data.dataset import Dataset
from data.ingest import IngestOptions, ingest
from data.shilling import ShillingAttack, shilling_events
from data.suspects import find_suspects, like_sized, standing_out
from data.user_traits import TRAITS, user_traits

DAY, START = 86_400, 1_600_000_000
KINDS = ("random", "average", "bandwagon", "popular")


@pytest.fixture(scope="module")
def log():
    """600 people in six groups of taste, 200 items, 20 events each over 70 days; items of low number are popular."""
    rng = np.random.default_rng(3)
    liking = np.where(np.arange(200) % 6 == np.arange(6)[:, None], 12.0, 1.0) / np.sqrt(1 + np.arange(200))
    rows = []
    for user in range(600):
        chances = liking[user % 6] / liking[user % 6].sum()
        for item in rng.choice(200, rng.integers(8, 33), replace=False, p=chances):
            moment = START + int(rng.integers(70 * DAY))
            rows.append((f"u{user}", f"i{item:03d}", moment, ("view", "like", "skip")[rng.integers(3)], rng.random()))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "event", "value"])


def suspects(log, share=0.1):
    users, names = pd.factorize(log["user_id"])
    items, ids = pd.factorize(log["item_id"])
    found = find_suspects(
        users, items, log["timestamp"].to_numpy(), log["value"].to_numpy(),
        share=share, user_rows=len(names), item_rows=len(ids),
    )  # fmt: skip
    return found, np.array([name.startswith("fake") for name in names]), [ids[row] for row in found.targets]


@pytest.mark.parametrize("kind", KINDS)
def test_an_attack_is_rows_of_the_logs_own_form(log, kind):
    attack = ShillingAttack(kind=kind, users=40, fillers=15, days=5, head=20)
    rows = shilling_events(log, "i150", attack, seed=1)
    assert list(rows.columns) == list(log.columns) and (rows.dtypes == log.dtypes).all()
    assert rows["user_id"].nunique() == 40 and not rows["user_id"].isin(log["user_id"]).any()
    assert not rows.duplicated(["user_id", "item_id"]).any()
    assert (rows.groupby("user_id").size() == 16).all()
    pushed = rows[rows["item_id"] == "i150"]
    assert len(pushed) == 40 and (pushed["event"] == "purchase").all()
    assert rows["timestamp"].between(log["timestamp"].max() - 5 * DAY, log["timestamp"].max()).all()
    pd.testing.assert_frame_equal(rows, shilling_events(log, "i150", attack, seed=1))
    head = set(log["item_id"].value_counts().index[:20])
    counts = log["item_id"].value_counts()
    fillers = rows[rows["item_id"] != "i150"]["item_id"]
    in_head, mean = fillers.isin(head).mean(), counts[fillers].mean()
    if kind == "popular":
        assert in_head == 1.0
    elif kind == "bandwagon":
        assert 0.2 <= in_head < 0.4
    elif kind == "random":
        assert in_head < 0.2 and abs(mean / counts.mean() - 1) < 0.15
    else:
        assert abs(mean / (counts**2).sum() * counts.sum() - 1) < 0.15


def test_a_new_item_can_be_pushed_and_errors_say_what_to_do(log):
    rows = shilling_events(log, "brand-new", ShillingAttack(users=3, fillers=2, days=0))
    assert (rows["item_id"] == "brand-new").sum() == 3
    with pytest.raises(ValueError, match="prefix: must not make ids that the log has, received 'u'"):
        shilling_events(log, "i1", ShillingAttack(users=3), prefix="u")
    with pytest.raises(ValueError, match="kind: must be among"):
        ShillingAttack(kind="clever")
    with pytest.raises(ValueError, match="event: must be among"):
        ShillingAttack(event="bought")
    with pytest.raises(ValueError, match="log: must have events"):
        shilling_events(log.iloc[:0], "i1", ShillingAttack())


@pytest.mark.parametrize("kind", KINDS)
def test_fake_users_of_one_week_are_found_with_few_customers(log, kind):
    attack = ShillingAttack(kind=kind, users=50, fillers=15, days=7, head=30)
    found, fake, targets = suspects(pd.concat([log, shilling_events(log, "i150", attack, seed=2)]))
    assert targets == ["i150"]
    assert (found.flagged & fake).sum() >= 45
    assert (found.flagged & ~fake).sum() <= 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_slow_attack_is_strange_too_and_costs_no_customer(log, kind):
    attack = ShillingAttack(kind=kind, users=50, fillers=15, days=0, head=30)
    found, fake, _ = suspects(pd.concat([log, shilling_events(log, "i150", attack, seed=2)]))
    ahead = found.score[fake][:, None] > found.score[~fake][None, :]
    assert ahead.mean() > 0.85 and (found.flagged & ~fake).sum() <= 5


def test_a_clean_log_loses_nobody(log):
    for share in (0.05, 0.1, 0.3):
        assert not suspects(log, share)[0].flagged.any()
    with pytest.raises(ValueError, match=r"share: must be above 0 and up to 0\.5, received 0"):
        suspects(log, 0.0)


def test_traits_are_what_a_loop_over_users_says():
    rng = np.random.default_rng(0)
    users, items = np.repeat(np.arange(1, 13), 5), np.concatenate([rng.choice(9, 5, replace=False) + 1 for _ in range(12)])
    times, values = rng.integers(0, 40 * DAY, 60), rng.random(60)
    traits = dict(zip(TRAITS, user_traits(users, items, times, values, user_rows=13, item_rows=10).T, strict=True))
    counts = np.bincount(items, minlength=10)
    sets = {user: set(items[users == user]) for user in range(1, 13)}
    week = (times - times.min()) // (7 * DAY)
    for user in range(1, 13):
        own = np.flatnonzero(users == user)
        rarity = np.mean([abs(values[e] - values[items == items[e]].mean()) / counts[items[e]] for e in own])
        assert traits["rarity"][user] == pytest.approx(np.log(rarity + 1e-9))
        cosines = [len(sets[user] & sets[other]) / 5 for other in sets if other != user]
        assert traits["similarity"][user] == pytest.approx(np.mean(cosines), abs=1e-6)
        surges = []
        for event in own:
            same = (items == items[event]) & (week == week[event])
            surges.append((same.sum() + 1) / (counts[items[event]] * (week == week[event]).mean() + 1))
        assert traits["surge"][user] == pytest.approx(max(0.0, np.log(max(surges))))
        assert traits["pace"][user] == pytest.approx(np.log(5 / (np.ptp(times[own]) / DAY)))
    assert not np.stack(list(traits.values()))[:, 0].any()


def test_how_users_are_numbered_changes_no_trait():
    # Everybody has three of ten items, so dozens of users are alike to the same degree.
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(1, 201), 3)
    items = np.concatenate([rng.choice(10, 3, replace=False) + 1 for _ in range(200)])
    traits = user_traits(users, items, user_rows=201, item_rows=11)
    number = np.append(0, rng.permutation(200) + 1)
    again = user_traits(number[users], items, user_rows=201, item_rows=11)[number]
    column = TRAITS.index("agreement")
    np.testing.assert_allclose(again, traits, atol=1e-5)
    assert len(np.unique(traits[1:, column])) > 10
    for user in (1, 7):  # by hand: 25 neighbours, of whom those on the edge share the places that the nearer ones leave
        own = items[users == user]
        shared = np.array([np.isin(items[users == other], own).sum() if other != user else -1 for other in range(1, 201)])
        edge = np.sort(shared)[-25]
        weight = (shared > edge) + (shared == edge) * (25 - (shared > edge).sum()) / (shared == edge).sum()
        have = np.array([[item in items[users == other] for item in own] for other in range(1, 201)])
        share = np.array([(items == item).sum() / 200 for item in own])
        assert traits[user, column] == pytest.approx(np.log((weight @ have + share) / (26 * share)).max(), abs=1e-5)


def test_size_alone_makes_nobody_strange():
    size = np.arange(1, 200)
    left = like_sized(np.stack([np.log(size) * 2 + 1, np.log(size) ** 2], axis=1), size)
    np.testing.assert_allclose(left, 0, atol=1e-3)


def test_the_target_is_the_item_of_the_largest_lift():
    users, items = np.repeat(np.arange(1, 101), 4), np.tile([1, 2, 3, 4], 100)
    items[::4] = np.where(np.arange(100) < 20, 7, 1)
    strange = np.zeros(101, bool)
    strange[1:21] = True
    lift = standing_out(np.stack([users, items]), strange, 8)
    # 20 of the 80 events of the strange, where nobody else has any: expected are 80 (0 + 1) / (320 + 8).
    assert lift[7] == pytest.approx(20 / (80 / 328)) and not lift[:7].any()
    assert not standing_out(np.stack([users, np.where(items == 7, 1, items)]), strange, 8).any()


def test_several_items_pushed_at_once_are_all_found(log):
    groups = [
        shilling_events(log, item, ShillingAttack(users=20, fillers=15), seed=number, prefix=f"fake{number}-")
        for number, item in enumerate(("i150", "i171", "i192"))
    ]
    found, fake, targets = suspects(pd.concat([log, *groups]))
    assert set(targets) == {"i150", "i171", "i192"}
    # Of a small group fewer can be told from the honest customers of the item.
    assert (found.flagged & fake).sum() >= 15 and (found.flagged & ~fake).sum() <= 6


def test_a_burst_counts_like_its_usual_weeks_and_one_outlier_changes_nothing():
    rng = np.random.default_rng(1)
    steady = np.concatenate([np.arange(20) * 7 * DAY + item * 60 for item in range(40) for _ in range(3)])
    items = np.repeat(np.arange(1, 41), 60)
    attack = 12 * 7 * DAY + rng.integers(0, 7 * DAY, 500)
    for size in (100, 500):
        columns = np.concatenate([items, np.full(size, 5)]), np.concatenate([steady, attack[:size]])
        weights = burst_weights(*columns, bound=2.0)
        counted = np.bincount(columns[0], weights=weights)
        week = (columns[1] - columns[1].min()) // (7 * DAY)
        # By hand: a week of item 5 may count 6, twice its trimmed mean of 3.
        expected = sum(min(((columns[0] == 5) & (week == number)).sum(), 6) for number in range(20))
        assert counted[5] == pytest.approx(expected) == pytest.approx(63)
        np.testing.assert_array_equal(np.delete(counted[1:], 4), 60)
    with pytest.raises(ValueError, match="bound: must be above 0, received 0"):
        burst_weights(items, steady, 0)


def test_ingest_sets_aside_fake_users_with_a_reason_and_keeps_everybody_else(log, tmp_path):
    rows = shilling_events(log, "i150", ShillingAttack(users=50, fillers=15), seed=2)
    source = tmp_path / "source"
    source.mkdir()
    pd.concat([log, rows]).to_parquet(source / "interactions.parquet", index=False)
    pd.DataFrame({"item_id": sorted(log["item_id"].unique())}).to_parquet(source / "items.parquet")
    plain = ingest(source, tmp_path / "plain", IngestOptions())
    clean = ingest(source, tmp_path / "clean", IngestOptions(anomaly_share=0.1))
    assert plain.report["anomalies"] == {} and set(plain.users["user_id"]) >= set(rows["user_id"])
    told = clean.report["anomalies"]
    assert told["targets"] == ["i150"] and 45 <= told["users"] <= 55
    kept = set(clean.users["user_id"]) - {""}
    assert len(kept) == 650 - told["users"] and len(kept - set(rows["user_id"])) >= 595
    assert len(plain.events) - len(clean.events) == told["events"]
    lines = pd.read_parquet(tmp_path / "clean" / "quarantine.parquet")
    lines = lines[lines["reason"].str.startswith("user: ")]
    assert len(lines) == told["users"] and '"targets": "i150"' in lines["record"].iloc[0]
    Dataset.load(tmp_path / "clean").check()
