"""The settings of the ranker: none missing, none different, and wrong ones refused where they are read."""

import dataclasses

import pytest

from pipeline.settings.config import ConfigError, load_config
from pipeline.settings.ranking import RankingSection
from pipeline.stages.ranking import ranking_config
from ranking.config import RankingConfig


def test_every_setting_of_the_ranker_can_be_set_and_means_the_same():
    names = [field.name for field in dataclasses.fields(RankingConfig)]
    # An earlier run's folder is where lists come from; the ranker itself never hears of it.
    assert sorted(set(RankingSection.model_fields) - {"previous_run"}) == sorted(names)
    assert ranking_config(load_config()) == RankingConfig()


def test_tables_of_heads_reach_the_ranker():
    config = ranking_config(
        load_config(overrides=["ranking.head_weights={purchase=2.0, skip=0}", "ranking.experts=ple"])
    )
    assert (config.weight_of("purchase"), config.weight_of("skip"), config.experts) == (2.0, 0.0, "ple")


def test_streams_that_do_not_divide_are_refused_where_they_would_be_built():
    for wrong in ("[96, 50]", "[]"):
        with pytest.raises(ConfigError, match="fusion_heads must divide the last width of stream_hidden, received 4"):
            load_config(overrides=["ranking.interaction=finalmlp", f"ranking.stream_hidden={wrong}"])
        load_config(overrides=[f"ranking.stream_hidden={wrong}"])


@pytest.mark.parametrize(
    "wrong", ["ranking.experts=many", "ranking.head_weights={watch=1.0}", "ranking.popularity_half_lives=[0.0]"]
)
def test_wrong_settings_are_refused_when_read(wrong):
    with pytest.raises(ConfigError, match="ranking"):
        load_config(overrides=[wrong])
