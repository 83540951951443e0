"""What a job was told to do without: columns and modalities that are gone on purpose, and those that were lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from pipeline.nightly.check import Check
from pipeline.settings.config import DataConfig
from pipeline.settings.encoders import EncodersConfig

FULL = "`python -m pipeline job --full`"
DERIVED = ("category", "domain")
"""Attributes that no list of columns leaves out."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The settings that leave something out, and whether a job trains from nothing.

    Attributes:
        data, encoders: the settings. full: train everything from nothing.
    """

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    encoders: EncodersConfig = dataclasses.field(default_factory=EncodersConfig)
    full: bool = False

    def column_setting(self, kind: str, name: str) -> str:
        """The setting that leaves out a column, "" = none.

        Args:
            kind: `profile`, `attributes` or `context`.

        Example:
            >>> Wanted(DataConfig(columns=("age",))).column_setting("profile", "income")
            'data.columns'
        """
        if kind == "attributes" and name in DERIVED:
            return ""
        if self.data.columns is not None and name not in self.data.columns:
            return "data.columns"
        return "data.context" if kind == "context" and self.data.context is not None and name not in self.data.context else ""

    def modality_setting(self, name: str) -> str:
        """The setting that leaves out a modality, "" = none."""
        return f"encoders.{name}" if self.encoders.specs()[name] == "none" else ""

    def loss(self, check: str, gone: Iterable[tuple[str, str, str]], allowed: str) -> Check:
        """A check that something is gone which the models of the last release read.

        A job that trains from nothing does without, and says so. One that goes on cannot: its weights have places for it, so
        that it stops before it trains, and says how to go on.

        Args:
            gone: what, the setting that leaves it out or "", and what became of it or "".
        """
        told = [f"{what} ({', '.join(filter(None, [setting and f'left out by {setting}', why])) or 'not in the data'})"
                for what, setting, why in gone]  # fmt: skip
        if self.full:
            advice = "if that is not meant, bring it back and train in full again"
            return Check(check, "warn", f"from now on without {', '.join(told)}; {advice}", allowed)
        undo = "set that back" if all(setting for _, setting, _ in gone) else "bring it back"
        return Check(check, "stop", f"gone: {', '.join(told)}; {undo}, or train without it by {FULL}", allowed)

    def gain(self, check: str, new: Iterable[tuple[str, str]]) -> list[Check]:
        """A check that there is what the models of the last release have no place for: of a job that goes on it stops before
        encoding and training are in vain, and says how to go on. Nothing where nothing is new, or all is trained.

        Args:
            new: what, and the setting that leaves it out or "".
        """
        told = [f"{what} ({setting} leaves it out)" if setting else what for what, setting in new]
        if self.full or not told:
            return []
        found = f"the last release has no place for {', '.join(told)}; leave it out, or train with it by {FULL}"
        return [Check(check, "stop", found, "those of the last release, or --full")]
