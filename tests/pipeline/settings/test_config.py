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
        ("retrieval.seed=-1", "retrieval.seed: .* greater than or equal to 0"),
        ("linear.seed=-1", "linear.seed: .* greater than or equal to 0"),
        *((f"linear.{name}=[]", f"linear.{name}: .* at least 1 item") for name in ("l2", "history_dropout", "user_power")),
        *((f"linear.{name}=[]", f"linear.{name}: .* at least 1 item") for name in ("content", "diffusion")),
        ("linear.l2=[1.0, 0.0]", r"linear.l2.1: .* greater than 0, received 0.0"),
        ("linear.history_dropout=[1.0]", r"linear.history_dropout.0: .* less than 1"),
        ("linear.diffusion=[-1.0]", r"linear.diffusion.0: .* greater than or equal to 0"),
        ("retrieval.temperature=inf", "retrieval.temperature: .* finite number"),
        ("retrieval.temperature=0.005", r"greater than or equal to 0\.01"),
        ("linear.l2=[inf]", r"linear.l2.0: .* finite number"),
        ("retrieval.loss.memory=64", r"loss\.memory: must hold a whole batch, 1025 columns, received 64"),
        ("epochs", "section.key=value"),
        ("retrieval.epochs.deep=1", "Input should be"),
    ],
)
def test_wrong_settings_are_refused(override, words):
    with pytest.raises(ConfigError, match=words):
        load_config(overrides=[override])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["history='transformer'", "attention_heads=3"], "attention_heads: must divide the width 64"),
        (["fusion='bottleneck'", "attention_heads=3"], "attention_heads: must divide the width 64"),
        (["sparse_updates=true", "accumulation=2"], "sparse_updates: true needs accumulation 1"),
        (["loss.kind='sigmoid'", "loss.products='bfloat16'"], "products, log_q: are of the softmax"),
        (["loss.kind='elsa'", "loss.log_q='streaming'"], "products, log_q: are of the softmax"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_when_read(overrides, words):
    with pytest.raises(ConfigError, match=words):
        load_config(overrides=[f"retrieval.{override}" for override in overrides])


def test_a_warm_start_validates_on_no_more_days_than_a_full_training():
    assert load_config(overrides=["job.valid_days=5", "job.warm_days=5"]).job.warm_days == 5
    for overrides in (["job.warm_days=8"], ["job.valid_days=2"]):
        with pytest.raises(ConfigError, match=r"job.warm_days: must be at most job.valid_days"):
            load_config(overrides=overrides)


def test_no_weights_of_columns_means_that_none_join():
    assert load_config(overrides=["linear.columns=[]", "linear.l2=[5]"]).linear.columns == ()


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
