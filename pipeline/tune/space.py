"""What a search of settings may try: ranges and choices out of a TOML file, held against the settings' own rules."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from pipeline.settings.config import Config, ConfigError

if TYPE_CHECKING:
    import optuna

SECTION = "retrieval"
"""The section whose settings a trial can change: ingested data and encoded content are the same for all trials."""
RANGE, CHOICES = {"low", "high", "log", "step"}, {"choices"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting to search.

    Attributes:
        name: with its section, `retrieval.dropout`.
        choices: to try as they are; empty for a range.
        low, high: both included. log: evenly in the logarithm. step: multiples of it from `low` on; None = any.
        whole: whether the setting is a whole number.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False

    def suggest(self, trial: optuna.Trial) -> Any:
        """The value that this trial takes."""
        if self.choices:
            # Optuna keeps text and numbers, so a list travels as JSON.
            return json.loads(trial.suggest_categorical(self.name, [json.dumps(choice) for choice in self.choices]))
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log, step=step)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log, step=self.step)

    def known_as(self, value: Any) -> Any:
        """A value as Optuna keeps it, or None where it lies outside of the space."""
        if self.choices:
            # 0.0 and 0 are equal and read differently: it is the space's own spelling that Optuna knows.
            return next((json.dumps(choice) for choice in self.choices if choice == value), None)
        return value if self.low <= value <= self.high and (self.step is None or self._on_grid(value)) else None

    def extremes(self) -> tuple[Any, ...]:
        """Values that break the setting's rule if any does."""
        return self.choices or (self.low, self.high)

    def _on_grid(self, value: float) -> bool:
        steps = (value - self.low) / (self.step or 1.0)
        return abs(steps - round(steps)) < 1e-9


def read_space(path: str | Path, config: Config) -> tuple[Setting, ...]:
    """The settings that a space file names, each checked by the rules of `config`'s own sections.

    A leaf is a table with `low` and `high` (and `log`, `step`) or with `choices`; the tables around it are sections.

    Raises: ConfigError naming the file, the setting, the rule and the value.
    """
    try:
        tree = tomllib.loads(Path(path).read_text())
    except FileNotFoundError:
        raise ConfigError(f"--space: {path} does not exist; configs/spaces/retrieval.toml is an example.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--space: {path} is not TOML: {error}") from error
    settings = []
    try:
        for name, leaf in _leaves(tree):
            setting = _setting(name, leaf)
            for value in setting.extremes():
                _check(config, setting, value)
            settings.append(setting)
        if not settings:
            raise ConfigError("nothing to search; name a setting, such as [retrieval.learning_rate] with low and high")
    except ConfigError as error:
        raise ConfigError(f"--space: {path}: {error}") from None
    return tuple(settings)


def apply_values(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with settings replaced by name, checked anew as a whole.

    Raises: ConfigError naming every setting that breaks a rule.

    Example:
        >>> apply_values(Config(), {"retrieval.dropout": 0.1}).retrieval.dropout
        0.1
    """
    tree = json.loads(config.model_dump_json())
    for name, value in values.items():
        *sections, key = name.split(".")
        place = tree
        for section in sections:
            place = place[section]
        place[key] = value
    try:
        return Config.model_validate_json(json.dumps(tree))
    except pydantic.ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}, received {problem['input']!r}"
            for problem in error.errors()
        ]
        raise ConfigError("; ".join(problems)) from error


def value_of(config: Config, name: str) -> Any:
    """A setting's value, as JSON would hold it.

    Example:
        >>> value_of(Config(), "retrieval.fusion_weights")
        []
    """
    value: Any = json.loads(config.model_dump_json())
    for key in name.split("."):
        value = value[key]
    return value


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in tree.items():
        name = f"{above}{key}"
        if not isinstance(value, dict):
            raise ConfigError(f"{name} must be a table with low and high, or with choices, received {value!r}")
        if any(not isinstance(inner, dict) for inner in value.values()):
            yield name, value
        else:
            yield from _leaves(value, f"{name}.")


def _setting(name: str, leaf: Mapping[str, Any]) -> Setting:
    keys = set(leaf)
    if not (keys == CHOICES or ({"low", "high"} <= keys <= RANGE)):
        raise ConfigError(f"{name} must have choices, or low and high (and log, step), received {sorted(keys)}")
    if not name.startswith(f"{SECTION}."):
        raise ConfigError(f"{name} cannot be searched, only settings of [{SECTION}]: every trial shares what is encoded")
    kind = _annotation(name)
    if keys == CHOICES:
        if not isinstance(leaf["choices"], list) or len(leaf["choices"]) < 2:
            raise ConfigError(f"{name}.choices must be a list of at least two, received {leaf['choices']!r}")
        return Setting(name, tuple(leaf["choices"]))
    if kind not in (int, float):
        raise ConfigError(f"{name} is no number: give it choices instead of low and high")
    low, high, log, step = leaf["low"], leaf["high"], leaf.get("log", False), leaf.get("step")
    numbers = [low, high] if step is None else [low, high, step]
    allowed = int if kind is int else (int, float)
    if any(isinstance(number, bool) or not isinstance(number, allowed) for number in numbers):
        what = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"{name}: low, high and step must be {what}, received {numbers}")
    if not isinstance(log, bool):
        raise ConfigError(f"{name}.log must be true or false, received {log!r}")
    if not low < high:
        raise ConfigError(f"{name}: low must be less than high, received {low} and {high}")
    if log and (low <= 0 or step is not None):
        raise ConfigError(f"{name}: log = true needs low above 0 and no step, received low = {low}, step = {step}")
    if step is not None and step <= 0:
        raise ConfigError(f"{name}.step must be positive, received {step}")
    return Setting(name, low=low, high=high, log=log, step=step, whole=kind is int)


def _annotation(name: str) -> Any:
    """The type of a setting; for a missing one, an error that names it."""
    model: Any = Config
    for key in name.split("."):
        fields = model.model_fields if isinstance(model, type) and issubclass(model, pydantic.BaseModel) else {}
        if key not in fields:
            raise ConfigError(f"{name} is no setting; pipeline/settings/retrieval.py has their names")
        model = fields[key].annotation
    if isinstance(model, type) and issubclass(model, pydantic.BaseModel):
        raise ConfigError(f"{name} is a section, not a setting")
    options = [option for option in typing.get_args(model) if option is not type(None)]
    return options[0] if type(None) in typing.get_args(model) and len(options) == 1 else model


def _check(config: Config, setting: Setting, value: Any) -> None:
    try:
        apply_values(config, {setting.name: value})
    except ConfigError as error:
        raise ConfigError(f"a value of the space breaks the setting's own rule: {error}") from None
