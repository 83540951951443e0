"""Settings: strict, frozen, and errors that name the key, the rule and the value."""

import pydantic
import pytest

from pipeline.settings.config import ConfigError, load_config


def test_file_and_overrides(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[retrieval]\nepochs = 3\nlearning_rate = 1\n[evaluation]\nmask_splits = ['train']\n")
    config = load_config(
        path, ["retrieval.epochs=5", "encoders.text=pack:minilm", "data.min_value=3.5", "retrieval.user_id=false"]
    )
    assert (config.retrieval.epochs, config.encoders.text.spec, config.data.min_value) == (5, "pack:minilm", 3.5)
    assert (
        config.evaluation.mask_splits == ("train",)
        and config.retrieval.learning_rate == 1.0
        and config.retrieval.user_id is False
    )
    with pytest.raises(pydantic.ValidationError):
        config.retrieval.epochs = 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("retrieval.epoch=3", "retrieval.epoch"),
        ("retrieval.epochs=0", "greater than or equal to 1"),
        ("retrieval.epochs='3'", "valid integer"),
        ("data.split=tomorrow", "global_time"),
        ("epochs", "section.key=value"),
        ("retrieval.epochs.deep=1", "Input should be"),
    ],
)
def test_wrong_settings_are_refused(override, words):
    with pytest.raises(ConfigError, match=words):
        load_config(overrides=[override])


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ConfigError, match=r"demo\.toml"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[retrieval\n")
    with pytest.raises(ConfigError, match="not TOML"):
        load_config(tmp_path / "bad.toml")


def test_the_shipped_configs_load():
    from pathlib import Path

    for path in Path("configs").glob("*.toml"):
        load_config(path)
