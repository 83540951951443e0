"""A nightly job's ranker goes on from the last one: what it has learned, in grown tables and moved embeddings."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from pipeline.ranker.setup import MINIMUM_LABELS
from pipeline.stage import StageError
from pipeline.training.warm import RETRAIN, enlarged, ridge_map
from ranking.config import HEADS, RankingConfig
from ranking.lists import RankingLists
from ranking.model import Ranker
from ranking.serving_form import DESCRIPTION

LEARNED = "learned.npz"
LAST = "last_timestamp"
"""In it, UTC seconds of the last event that the ranker may have learned from; 0 without times."""
IDS = ("user_id", "item_id")
KNOWN = ("user_known", "item_known")
"""Side tables that say whose embedding has been trained, and so is read."""
BY_DOMAIN = ("_shift", "_offset")
"""What the weights of a head end in that have a column a domain."""
BUILT = (
    "interaction", "cross_layers", "cross_rank", "group_width", "stream_hidden", "fusion_heads", "experts", "expert_count",
    "hidden", "domain_heads", "purchase_given_click", "token_width", "id_width", "side_width", "item_embeddings",
    "popularity_half_lives",
)  # fmt: skip
"""Settings that decide which weights a ranker has, and what they mean."""
TEACHERS = ("position/", "category/", "sentiment/", "weighting/")
"""Paths of weights that help in training and answer nobody; a night may do without, or begin them anew."""


def save_learned(ranker: Ranker, folder: Path, last_timestamp: int = 0) -> None:
    """Write what the ranker has learned into a folder as `learned.npz`: every trained weight by its path, the means that its
    content is centred by, which ids it knows, and until when it has learned (UTC seconds, 0 = log without times)."""
    weights = weights_of(ranker) | {table.path: table for table in known_tables(ranker)}
    arrays = {name: keras.ops.convert_to_numpy(weight.value) for name, weight in weights.items()}
    np.savez(folder / LEARNED, allow_pickle=False, **arrays, **{LAST: np.int64(last_timestamp)})


def learned_until(folder: Path) -> int:
    """UTC seconds of the last event that an earlier ranking stage may have learned from; 0 where it did not say so."""
    if not (folder / LEARNED).is_file():
        return 0
    with np.load(folder / LEARNED) as arrays:
        return int(arrays[LAST]) if LAST in arrays.files else 0


def not_learned(timestamps: np.ndarray, until: int) -> np.ndarray:
    """Which of some requests an earlier ranker has not learned from, bool [R].

    Where they are fewer than `MINIMUM_LABELS` it is all of them: a second job of the same days has no others, and its gate
    compares calibrations on days that nobody has learned from.

    Args:
        timestamps: [R], UTC seconds. until: see `learned_until`.

    Example:
        >>> not_learned(np.arange(40), 9).sum(), not_learned(np.arange(40), 30).sum()
        (np.int64(30), np.int64(40))
    """
    later = timestamps > until
    return later if later.sum() >= MINIMUM_LABELS else np.ones_like(later)


def with_labels_of(lists: RankingLists, later: np.ndarray) -> RankingLists:
    """Keeps labels of the later requests only. A head with fewer than `MINIMUM_LABELS` positives among them keeps all of its
    labels: one quiet day is little to calibrate on.

    Shapes: lists [R, K], later bool [R].
    """
    known = {}
    for head, told in lists.known.items():
        among = told & later[:, None]
        known[head] = among if lists.labels[head][among].sum() >= MINIMUM_LABELS else told
    return dataclasses.replace(lists, known=known)


def weights_of(ranker: Ranker) -> dict[str, keras.Variable]:
    """What a ranker learns and is centred by, by path: that of an expert or a stream behind its own name, since the layers in
    one are called as those in the next."""
    network = ranker.network
    perceptrons = [*getattr(network.interaction, "streams", ()), *getattr(network.experts, "experts", ())]
    owners = {id(weight): layer.name for layer in perceptrons for weight in layer.weights}
    weights = [*ranker.trainable_variables, *ranker.content.means]
    named = {"/".join([*filter(None, [owners.get(id(weight))]), weight.path]): weight for weight in weights}
    assert len(named) == len(weights), [weight.path for weight in weights]
    return named


def known_tables(ranker: Ranker) -> list[keras.Variable]:
    """The side tables `KNOWN`. int [U] and [N + 1]"""
    return [ranker.network.features.side.tables[name] for name in KNOWN]


@dataclasses.dataclass(frozen=True)
class WarmRanker:
    """A ranker that goes on from that of an earlier run.

    Attributes:
        previous: folder of the earlier ranking stage. item_embeddings: [N' + 1, D'], those that it learned with.
        new_embeddings: [N + 1, D], those that the new one reads.
        learned_until: UTC seconds; only later requests calibrate and weigh it. 0 = unknown, the newest do.
    """

    previous: Path
    item_embeddings: np.ndarray
    new_embeddings: np.ndarray
    learned_until: int = 0

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """What its serving form says of itself."""
        return json.loads((self.previous / "serving_form" / DESCRIPTION).read_text())

    @property
    def calibrations(self) -> dict[str, dict]:
        """The calibration of each of its heads."""
        return self.description["calibrations"]

    def heads(self, learnable: tuple[str, ...], lists: RankingLists, config: RankingConfig) -> tuple[str, ...]:
        """Heads that go on: those with labels enough, and those that it has learned before: a few quiet days are no reason to
        forget what a `like` looks like."""
        known = {head for head in self.calibrations if head in lists.labels and config.weight_of(head) > 0}
        return tuple(head for head in HEADS if head in known.union(learnable))

    @functools.cached_property
    def learned(self) -> dict[str, np.ndarray]:
        """What `save_learned` kept.

        Raises:
            StageError: nothing was.
        """
        file = self.previous / LEARNED
        if not file.is_file():
            raise StageError(f"job: {file} is missing, from which the ranker would go on. {RETRAIN}.")
        with np.load(file) as arrays:
            return {name: arrays[name] for name in arrays.files}

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those whose projections were learned, and need no start."""
        parts = (path.partition("_kernel") for path in self.learned if path.startswith("content/"))
        return tuple(name.removeprefix("content/") for name, kernel, _ in parts if kernel)

    def fill(self, ranker: Ranker) -> None:
        """Give a newly built ranker the earlier weights.

        Ids that it knew are known still, whether or not they have been active since: their embeddings have come along.
        Rows of new users and items become those of the unknown one; heads, columns, values and domains that are new keep their
        start.
        The projection of the retrieval embedding is carried into the new embedding's basis by least squares.

        Raises:
            StageError: nothing was kept, or the ranker is built otherwise.
        """
        learned, weights = self.learned, weights_of(ranker)
        self._check_build(ranker, learned, weights)
        for name, weight in weights.items():
            value = learned.get(name)
            if value is not None and "behaviour" not in name:
                weight.assign(value if value.shape == tuple(weight.shape) else grown(weight, value))
        for table in known_tables(ranker):
            if (known := learned.get(table.path)) is not None:  # a release from before kept none
                flags = np.array(keras.ops.convert_to_numpy(table.value))
                flags[: len(known)] |= known
                table.assign(flags)
        self._carry_behaviour(ranker, learned)

    def _check_build(
        self, ranker: Ranker, learned: dict[str, np.ndarray], weights: dict[str, keras.Variable]
    ) -> None:
        """Refuses a ranker some of whose weights would answer untrained, or answer to something else than they learned.

        Heads that one of both lacks are none of it.
        """
        heads = {name for name in HEADS if f"heads/{name}_kernel" in learned}.symmetric_difference(ranker.spec.heads)
        ours = set(weights) - {table.path for table in known_tables(ranker)}
        theirs = set(learned) - {LAST} - {table.path for table in known_tables(ranker)}
        different = {
            name for name in ours ^ theirs if not name.startswith(TEACHERS)
            and not any(part.startswith(f"{head}_") for part in name.split("/") for head in heads)
        }  # fmt: skip
        different |= {
            name for name in ours & theirs
            if learned[name].shape != tuple(weights[name].shape) and growing_axis(weights[name]) < 0 and "behaviour" not in name
        }  # fmt: skip
        before, now = self.description["config"], json.loads(ranker.config.to_json())
        changed = [name for name in BUILT if name in before and before[name] != now[name]]
        if different or "purchase_given_click" in changed:
            told = "; ".join(f"ranking.{name} was {before[name]!r} and is {now[name]!r}" for name in changed)
            raise StageError(
                f"job: the last release's ranker is built otherwise ({told or 'by other columns or an older code'}; differing: "
                f"{sorted(different)[:5]}). {RETRAIN}, or set back what was changed."
            )

    def _carry_behaviour(self, ranker: Ranker, learned: dict[str, np.ndarray]) -> None:
        names = list(ranker.content.modalities)
        if "behaviour" not in names or "content/behaviour_kernel" not in learned:
            return
        place, moved = names.index("behaviour"), ridge_map(self.new_embeddings, self.item_embeddings)
        ranker.content.kernels[place].assign(moved @ learned["content/behaviour_kernel"])


def grown(weight: keras.Variable, value: np.ndarray) -> np.ndarray:
    """An earlier value at the beginning of a weight that has more rows or more domains by now; what is new keeps its start, or
    becomes the unknown one where it is an id.

    Raises:
        StageError: the weight differs in anything else.
    """
    result = enlarged(value, keras.ops.convert_to_numpy(weight.value), growing_axis(weight), f"the ranker's {weight.path}")
    if weight.path.split("/")[-1] in IDS:
        result[len(value) :] = value[0]
    return result


def growing_axis(weight: keras.Variable) -> int:
    """The axis of a weight along which there may be more by now: rows, values or steps, or domains; -1 = none."""
    room, name = weight.path.split("/")[0], weight.path.split("/")[-1]
    return 0 if room == "features" else len(weight.shape) - 1 if room == "heads" and name.endswith(BY_DOMAIN) else -1
