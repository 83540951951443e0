"""What a simulated month compares nights by: the week that begins with one, and how much of a ratio is chance."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.month_days import cut
from benchmarks.month_week import ratio_of
from data.splits import DAY
from data.world_config import END


def test_a_ratio_and_what_of_it_is_chance_against_drawing_users_again():
    rng = np.random.default_rng(3)
    full = rng.beta(2, 2, 400)
    job = np.clip(full + rng.normal(0.02, 0.2, 400), 0, 1)
    names = [f"u{number}" for number in range(400)]
    told = ratio_of({**dict(zip(names, job, strict=True)), "new": 1.0}, dict(zip(names, full, strict=True)))
    assert told["users"] == 400
    assert told["ratio"] == pytest.approx(sum(job) / sum(full), abs=1e-4)
    drawn = [rng.integers(0, 400, 400) for _ in range(4000)]
    ratios = [job[at].sum() / full[at].sum() for at in drawn]
    error = np.std(ratios)
    assert told["interval"] == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=0.2 * error)


def test_a_week_has_the_events_to_come_of_those_that_a_night_knows(tmp_path):
    world = tmp_path / "world"
    (world / "media").mkdir(parents=True)
    night = END - 10 * DAY
    times = {"old": night - 5, "item to come": night + 5, "week": night + 6 * DAY - 1, "later": night + 6 * DAY,
             "user to come": night + 7}  # fmt: skip
    items = ["a", "b", "a", "a", "a"]
    users = ["u", "u", "u", "u", "v"]
    columns = {"user_id": users, "item_id": items, "timestamp": list(times.values())}
    pd.DataFrame(columns).to_parquet(world / "interactions.parquet")
    pd.DataFrame({"item_id": ["a", "b"], "created_at": [0, night + 1]}).to_parquet(world / "items.parquet")
    pd.DataFrame({"user_id": ["u", "v"]}).to_parquet(world / "users.parquet")
    for coming, expected in ((0, ["old"]), (6, ["old", "week"])):
        folder = cut(world, tmp_path / f"day-{coming}", 10, coming)
        assert pd.read_parquet(folder / "interactions.parquet")["timestamp"].tolist() == [times[name] for name in expected]
        assert pd.read_parquet(folder / "items.parquet")["item_id"].tolist() == ["a"]
        assert pd.read_parquet(folder / "users.parquet")["user_id"].tolist() == ["u"]
