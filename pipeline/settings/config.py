"""One run's settings: a TOML file read into frozen, strict models. A misspelt key is an error, not a default."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, Literal

import pydantic

from pipeline.settings.data_checks import ChecksSection
from pipeline.settings.encoders import EncodersConfig
from pipeline.settings.enrich import EnrichSection
from pipeline.settings.gate import GateSection
from pipeline.settings.index import IndexSection
from pipeline.settings.job import JobSection
from pipeline.settings.linear import LinearSection
from pipeline.settings.policy import PolicySection
from pipeline.settings.privacy_limits import check_retrieval, check_run
from pipeline.settings.ranking import RankingSection
from pipeline.settings.retrieval import RetrievalConfig
from pipeline.settings.robustness import RobustnessSection
from pipeline.settings.search import SearchSection
from pipeline.settings.section import Section
from pipeline.settings.tracking import TrackingSection


class DataConfig(Section):
    split: Literal["auto", "global_time", "leave_last_out", "given", "random"] = "auto"
    """auto = the given split if the log has one, else by time if it has timestamps, else at random."""
    valid_fraction: float = pydantic.Field(0.15, gt=0, lt=0.5)
    test_fraction: float = pydantic.Field(0.15, gt=0, lt=0.5)
    k_core: int = pydantic.Field(0, ge=0)
    """Keep only users and items with at least this many events; 0 keeps all."""
    min_value: float | None = None
    """Ratings below this are not positives; None takes every rating as one."""
    positive_events: tuple[str, ...] | None = None
    """Event kinds that count as positives; None = every kind but skips and dislikes."""
    context: tuple[str, ...] | None = None
    """Columns of the log that were known when an item was shown, such as the device; None = all that mean nothing else."""
    columns: tuple[str, ...] | None = None
    """The only profile, attribute and context columns that may be read, whatever their file; None = all. Columns with a
    meaning of their own (ids, times, titles, media) are read in any case."""
    pseudonym_salt_file: str = ""
    """File with a secret salt of at least 16 bytes, outside dataset and run: the run then holds pseudonyms of users, made by
    HMAC-SHA-256, in place of their ids, and so does every release; see `python -m pipeline pseudonym`. "" = ids as they are."""
    anomaly_share: float = pydantic.Field(0.0, ge=0, le=0.5)
    """Share of the users that may be fake; users who look made up and push an item together (shilling) are set aside into
    the quarantine. 0 = do not look; 0.1 finds an attack of up to about a tenth of all users."""
    max_text_length: int = pydantic.Field(10_000, ge=1)
    seed: int = pydantic.Field(7, ge=0)


class EvaluationConfig(Section):
    mask_splits: tuple[Literal["train", "valid"], ...] = ("train", "valid")
    """Splits whose items are a user's history at test time and are not recommended again."""
    recommendations: int = pydantic.Field(100, ge=1)
    examples: int = pydantic.Field(10, ge=1)


class ServingConfig(Section):
    grpc_port: int = pydantic.Field(8500, ge=0, le=65535)
    rest_port: int = pydantic.Field(8501, ge=0, le=65535)
    gateway_port: int = pydantic.Field(8080, ge=0, le=65535)
    precision: Literal["float32", "float16", "int8"] = "float32"
    """How a release keeps its tables of items and users and the ranker's weights; `benchmarks/precision.py` measures what
    that costs. Needs a new `export`, and nothing before it."""
    prune: float = pydantic.Field(0.0, ge=0, lt=1)
    """Share of the ranker's hidden units that a release leaves out, the least important ones, so that its graph is smaller
    (`ranking.pruning`); `benchmarks/precision.py` measures what that costs. Needs a new `export`, and nothing before it."""


class Config(Section):
    data: DataConfig = DataConfig()
    enrich: EnrichSection = EnrichSection()
    encoders: EncodersConfig = EncodersConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    linear: LinearSection = LinearSection()
    search: SearchSection = SearchSection()
    index: IndexSection = IndexSection()
    ranking: RankingSection = RankingSection()
    policy: PolicySection = PolicySection()
    evaluation: EvaluationConfig = EvaluationConfig()
    serving: ServingConfig = ServingConfig()
    robustness: RobustnessSection = RobustnessSection()
    job: JobSection = JobSection()
    checks: ChecksSection = ChecksSection()
    gate: GateSection = GateSection()
    tracking: TrackingSection = TrackingSection()

    @pydantic.model_validator(mode="after")
    def _tuned_by_adamw(self) -> Config:
        if (trained := tuple(self.encoders.trained())) and self.retrieval.optimizer != "adamw":
            raise ValueError(
                'retrieval.optimizer: must be "adamw" where encoders learn, whose rates are a share of the towers\', received '
                f'{self.retrieval.optimizer!r} and trained encoders {trained}; set it, or encoders.<name>.train = "frozen"'
            )
        return self

    @pydantic.model_validator(mode="after")
    def _private_altogether(self) -> Config:
        if self.retrieval.privacy.epsilon:
            check_retrieval(self.retrieval)
            check_run(self.data, self.encoders, self.linear)
        return self


class ConfigError(ValueError):
    """The config file or an override is wrong; the message names the key, the rule and the value."""


def load_config(path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read a TOML file and apply `section.key=value` overrides (values in TOML syntax; a bare word is a string).

    Errors: ConfigError naming every wrong key with the rule it breaks and the value received.

    Example:
        >>> load_config(overrides=["retrieval.epochs=3", "encoders.text=none"]).retrieval.epochs
        3
    """
    settings: dict[str, Any] = {}
    if path is not None:
        try:
            settings = tomllib.loads(Path(path).read_text())
        except FileNotFoundError:
            raise ConfigError(f"--config: {path} does not exist; configs/demo.toml is an example.") from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"--config: {path} is not TOML: {error}") from error
    for override in overrides:
        _apply(settings, override)
    try:
        # Through JSON, because strict models take arrays as tuples and whole numbers as floats only there.
        return Config.model_validate_json(json.dumps(settings))
    except pydantic.ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, problem['loc']))}: {problem['msg']}, received {problem['input']!r}"
            for problem in error.errors()
        ]
        raise ConfigError("config:\n" + "\n".join(lines)) from error


def _apply(settings: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set: expected section.key=value, received {override!r}.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for key in keys[:-1]:
        settings = settings.setdefault(key, {})
        if not isinstance(settings, dict):
            raise ConfigError(f"--set: {name} goes through {key}, which is a value and not a section.")
    settings[keys[-1]] = value
