"""What a search leaves behind: the best settings as a config of its own, a table of all trials, and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import optuna
import pandas as pd
import tomli_w
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from pipeline.report.figure import INK, STYLE
from pipeline.settings.config import Config
from pipeline.tune.space import Setting, apply_values

METRIC = "valid_ndcg@20"
BEST, TABLE, PICTURE = "best.toml", "trials.csv", "search.png"
FEWEST_FOR_IMPORTANCE = 8
COLOURS = {"complete": "#3a8f8a", "pruned": "#b9862f", "fail": "#c8635c"}
WORDS = {"complete": "to the end", "pruned": "given up", "fail": "failed"}


def write_report(study: optuna.Study, folder: Path, config: Config, space: tuple[Setting, ...]) -> dict[str, Any]:
    """Write `best.toml`, `trials.csv` and `search.png`; the study holds at least one finished trial."""
    table = trials_table(study, space)
    table.to_csv(folder / TABLE, index=False)
    (folder / BEST).write_text(best_toml(study, config, space))
    draw_search(table, space, importances(study), folder / PICTURE)
    return {
        "trials": len(table),
        "complete": int((table["state"] == "complete").sum()),
        "best_trial": study.best_trial.number,
        METRIC: float(study.best_value),
        "settings": settings_of(study.best_trial, space),
        **{name: str(folder / name) for name in (BEST, TABLE, PICTURE)},
    }


def settings_of(trial: optuna.trial.FrozenTrial, space: tuple[Setting, ...]) -> dict[str, Any]:
    """A trial's settings as the config takes them: choices travel as JSON."""
    return {
        setting.name: json.loads(trial.params[setting.name]) if setting.choices else trial.params[setting.name]
        for setting in space
        if setting.name in trial.params
    }


def trials_table(study: optuna.Study, space: tuple[Setting, ...]) -> pd.DataFrame:
    """One line a trial that began: figure reached (of a trial given up, its best until then), state, epochs, settings."""
    lines = []
    for trial in study.trials:
        if trial.state in (TrialState.WAITING, TrialState.RUNNING):
            continue
        reached = trial.value if trial.value is not None else max(trial.intermediate_values.values(), default=None)
        lines.append(
            {
                "trial": trial.number,
                METRIC: reached,
                "state": trial.state.name.lower(),
                "epochs": len(trial.intermediate_values),
                "best_epoch": trial.user_attrs.get("best_epoch"),
                "seconds": trial.user_attrs.get("seconds"),
                **settings_of(trial, space),
                "error": trial.user_attrs.get("error", ""),
            }
        )
    return pd.DataFrame(lines)


def best_toml(study: optuna.Study, config: Config, space: tuple[Setting, ...]) -> str:
    """The whole config with the best trial's settings in it, ready for `--config`; its head says where it is from."""
    best = study.best_trial
    settings = settings_of(best, space)
    tree = apply_values(config, settings).model_dump(mode="json", exclude_none=True)  # TOML has no null
    found = "\n".join(f"#   {name} = {json.dumps(value)}" for name, value in settings.items())
    return (
        f"# Found by `python -m pipeline tune`: trial {best.number} of {len(study.trials)}, validation NDCG@20 "
        f"{best.value:.4f}.\n# Searched:\n{found}\n\n{tomli_w.dumps(tree)}"
    )


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of each setting in what makes trials good (PED-ANOVA, Watanabe et al. 2023); empty for too few trials."""
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    if len(complete) < FEWEST_FOR_IMPORTANCE or len({trial.value for trial in complete}) < 2:
        return {}
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())


def draw_search(table: pd.DataFrame, space: tuple[Setting, ...], shares: dict[str, float], path: Path) -> None:
    """The figure by trial, and by the value of each setting, the most important first."""
    settings = sorted(space, key=lambda setting: -shares.get(setting.name, 0.0))
    columns = min(3, 1 + len(settings))
    rows = -(-(1 + len(settings)) // columns)
    colours = {key: "#222222" if value == INK else value for key, value in STYLE.items()}
    with matplotlib.rc_context(colours):
        figure = Figure(figsize=(4.6 * columns, 3.3 * rows), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
        _draw_history(axes[0], table)
        for axis, setting in zip(axes[1:], settings, strict=False):
            share = f" ({shares[setting.name]:.0%})" if setting.name in shares else ""
            _draw_slice(axis, table, setting)
            axis.set(title=setting.name.partition(".")[2] + share)
        for axis in axes[1 + len(settings) :]:
            axis.set_axis_off()
        figure.savefig(path, dpi=110)


def _draw_history(axis: Axes, table: pd.DataFrame) -> None:
    for state, lines in table.groupby("state"):
        axis.scatter(lines["trial"], lines[METRIC], s=18, color=COLOURS[str(state)], label=WORDS[str(state)])
    best = table[METRIC].where(table["state"] == "complete").cummax()
    axis.step(table["trial"], best, where="post", color=COLOURS["complete"], lw=1.3, label="best so far")
    axis.set(title="Search", xlabel="trial", ylabel="validation NDCG@20")
    axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axis.legend(fontsize=8)


def _draw_slice(axis: Axes, table: pd.DataFrame, setting: Setting) -> None:
    known = table[table[setting.name].notna()] if setting.name in table else table[:0]
    if setting.choices:
        names: Sequence[str] = [json.dumps(choice).strip('"') for choice in setting.choices]
        places = [setting.choices.index(value) for value in known[setting.name]]
        axis.set_xticks(range(len(names)), names)
    else:
        places = known[setting.name].tolist()
        if setting.log:
            axis.set_xscale("log")
    axis.scatter(places, known[METRIC], s=18, c=[COLOURS[state] for state in known["state"]])
