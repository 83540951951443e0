"""The ranker as it is served: tokens folded to one table, probabilities calibrated, nothing needed but rows."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
from keras import ops

from ranking.calibration import kind_of
from ranking.config import HEADS, RankerSpec, RankingConfig
from ranking.domain_calibration import domain_of
from ranking.fitted_numbers import FittedNumbers
from ranking.model import Ranker, RankingNetwork
from ranking.score import above_padding
from ranking.trees import BoostedTrees, TreeTables

DESCRIPTION, WEIGHTS = "ranking.json", "ranking.weights.h5"
IDENTITY = {"kind": "platt", "slope": 1.0, "intercept": 0.0}
HOW_FITTED = ("calibration_share", "catch_up_epochs", "catch_up_rate")
"""Settings that a night has others of than a full training, and no graph follows from."""


class RankingServingForm(keras.Model):
    """A trained ranker whose content projections are folded into a token table; all tables are non-trainable weights.

        probability_h = calibration_h(logit_h);  score = sum_h w_h probability_h / sum_h |w_h| + blend * z

    with z the standardised retrieval score, and what is below -0.9 bent (`ranking.score.above_padding`). Where boosted trees
    belong to it, logit_click is that of the network and their sum together: trees see each feature alone, ask about
    thresholds and forget nothing rare, a network sees vectors; they err differently.

    Whatever training finds out is a weight, numbers of calibrations and blend included: the graph of a form is that of any
    other of the same `graph_basis`.

    Args:
        spec, config: of the trained ranker.
        calibrations: head -> calibration, see `ranking.calibration`.
        score_weights: head -> weight of the score, negative for what should count against an item; a head that was not
            trained has probability 0 and no weight.
        blend: weight of the standardised retrieval score; not negative.
        trees: how many boosted trees there are, 0 = none; `self.trees.assign` takes them.

    Shapes: `call(user_row [B], history_rows [B, L'], candidate_rows [B, K], retrieval_scores [B, K], timestamp [B],
    retrieval_ranks [B, K] or None, context [B, C] or None, profile [B, P] or None)` returns {every head of `HEADS`,
    "score"}, each f32 [B, K]; K free, any L' (the first `history_length` count), row 0 is padding (probabilities 0, score
    -1, below any other). Without ranks they are taken among the given candidates, so a request that sends all that it
    retrieved sees the ranks of training. Without `context` all of it is unknown. A code of `profile` that is not 0 stands
    for the one that is known of the user.

    Raises:
        ValueError: at construction, if a head has no calibration, or neither the weights nor the blend weigh anything.
    """

    def __init__(
        self,
        spec: RankerSpec,
        config: RankingConfig,
        calibrations: dict,
        score_weights: dict[str, float],
        blend: float = 0.0,
        trees: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        missing = [head for head in spec.heads if head not in calibrations]
        if missing:
            raise ValueError(f"calibrations must have one entry per head, received none for {missing}")
        weights = {head: float(score_weights.get(head, 0.0)) for head in spec.heads}
        if not (any(weights.values()) or blend) or blend < 0:
            raise ValueError(
                f"score_weights must weigh a head of {spec.heads} unless a blend of the retrieval score, at least 0, "
                f"does, received {score_weights} and blend {blend}"
            )
        self.spec, self.config = spec, config
        self.calibrations, self.score_weights = {head: calibrations[head] for head in spec.heads}, weights
        self.blend = float(blend)
        count = len(spec.modalities)
        shape = (spec.schema.item_rows, count, config.token_width)
        add = lambda shape, name: self.add_weight(shape=shape, initializer="zeros", trainable=False, name=name)  # noqa: E731
        self.tokens, self.present = add(shape, "tokens"), add(shape[:2], "present")
        self.fitted = FittedNumbers(spec, self.calibrations, weights, self.blend, name="fitted")
        self.network = RankingNetwork(spec.standardised(), config, name="network")
        self.network.trainable = False
        self.trees = BoostedTrees(trees, name="trees") if trees else None
        self.built = True

    def call(
        self,
        user_row,
        history_rows,
        candidate_rows,
        retrieval_scores,
        timestamp,
        retrieval_ranks=None,
        context=None,
        profile=None,
        group_mask=None,
    ):
        inputs = self.request_inputs(
            user_row, history_rows, candidate_rows, retrieval_scores, timestamp, retrieval_ranks, context, profile
        )
        x0 = self.network.features(self.tokens, self.present, None, inputs, group_mask=group_mask)
        standardised = inputs["retrieval_scores"]
        if group_mask is not None:  # a masked retrieval score is blended in no more than it is a feature
            place = list(self.network.features.groups).index("retrieval")
            standardised = standardised * ops.convert_to_tensor(group_mask, "float32")[..., place, None]
        return self.answer(x0, candidate_rows, standardised)

    def request_inputs(
        self,
        user_row,
        history_rows,
        candidate_rows,
        retrieval_scores,
        timestamp,
        retrieval_ranks=None,
        context=None,
        profile=None,
    ) -> dict:
        """The arguments of `call` as the features take them, scores standardised, with what was not given filled in."""
        # A server sends all candidates of a request, so their ranks follow from their scores. A list that is only a
        # sample of them (evaluation) has to bring the ranks along.
        exists = candidate_rows > 0
        # Padding carries the lowest float as its score; it must not reach the features, where it would overflow.
        scores = ops.where(exists, retrieval_scores, ops.zeros_like(retrieval_scores) + self.fitted.center)
        if retrieval_ranks is None:
            higher = ops.logical_and(scores[:, None, :] > scores[:, :, None], exists[:, None, :])
            retrieval_ranks = 1.0 + ops.sum(ops.cast(higher, "float32"), axis=-1)
        if context is None:
            context = ops.zeros((ops.shape(candidate_rows)[0], len(self.spec.context)), "int32")
        return {
            "user": user_row,
            "history": history_rows[:, : self.config.history_length],
            "candidates": candidate_rows,
            "retrieval_scores": self.fitted.standardised(scores),
            "retrieval_ranks": ops.minimum(retrieval_ranks, self.config.retrieved + 1.0),
            "timestamp": timestamp,
            "context": context,
            "profile": profile,
        }

    def logits(self, x0, candidate_rows) -> dict:
        """Logits of the trained heads, trees included and nothing calibrated: x0 [B, K, X], rows [B, K] to {head: [B, K]}."""
        logits = self.network.logits(x0, candidate_rows)
        if self.trees is not None:
            logits["click"] = logits["click"] + self.trees(x0)
        return logits

    def answer(self, x0, candidate_rows, standardised) -> dict:
        """From features on: x0 [B, K, X], rows [B, K] and standardised retrieval scores [B, K] to what `call` returns."""
        logits = self.logits(x0, candidate_rows)
        exists = candidate_rows > 0
        kept = ops.cast(exists, "float32")
        domain = domain_of(self.network.features.side, self.spec, candidate_rows)
        answer = {head: self.fitted.probability(head, logits[head], domain) * kept for head in logits}
        answer = {head: answer.get(head, ops.zeros_like(kept)) for head in HEADS}
        score = self.fitted.score(answer, standardised)
        return {**answer, "score": ops.where(exists, above_padding(score), -ops.ones_like(kept))}

    def row_tables(self) -> list:
        """The weights with a line an item, a user or a word of an item's attributes, such as its creator, that are read by
        `take_rows` alone, in any of its stored forms."""
        features = self.network.features
        learned, numbers = features.embeddings, features.side.tables["numbers"]
        words = [learned[f"attribute_{name}"] for name in self.spec.schema.attributes]
        return [self.tokens, self.present, learned["user_id"], learned["item_id"], numbers, *words]

    def code_tables(self) -> list:
        """The other weights with a line an item or a user, which are never stored in another form."""
        side = self.network.features.side
        return [*(table for name, table in side.tables.items() if name != "numbers"), side.popularity_table]

    def graph_basis(self) -> dict:
        """What the graph of the form follows from beside the shapes of its weights, JSON-able: seldom another at night."""
        spec = json.loads(self.spec.to_json())
        words = {name: count if name == "domain" else 0 for name, count in spec["schema"]["attributes"].items()}
        schema = {**spec["schema"], "user_rows": 0, "item_rows": 0, "attributes": words}
        spec |= {"schema": schema, "score_center": 0, "score_scale": 1}
        if self.spec.popularity_moments == 1:  # of one moment alone nobody asks when it was
            spec["popularity_start"] = 0
        kinds = {head: kind_of(calibration) for head, calibration in self.calibrations.items()}
        config = {name: value for name, value in json.loads(self.config.to_json()).items() if name not in HOW_FITTED}
        return {"spec": spec, "config": config, "calibrations": kinds}

    @classmethod
    def from_ranker(
        cls,
        ranker: Ranker,
        calibrations: dict | None = None,
        score_weights: dict | None = None,
        blend: float = 0.0,
        chunk: int = 8192,
        newest: bool = True,
        trees: TreeTables | None = None,
    ):
        """Folds a trained ranker: every item's tokens are computed once, `chunk` rows at a time.

        The newest popularity alone comes along, unless `newest` is false, for requests of the past.

        Without `calibrations` probabilities are plain sigmoids; without `score_weights` the score is the click
        probability, and with none in them ({}) the blend alone: the retrieval order.
        """
        calibrations = calibrations or {head: IDENTITY for head in ranker.spec.heads}
        spec = ranker.spec.newest() if newest else ranker.spec
        form = cls(
            spec,
            ranker.config,
            calibrations,
            {"click": 1.0} if score_weights is None else score_weights,
            blend,
            0 if trees is None else trees.count,
        )
        if trees is not None and form.trees is not None:
            form.trees.assign(trees)
        tokens, present = [], []
        for start in range(0, ranker.spec.schema.item_rows, chunk):
            part = ranker.content(np.arange(start, min(start + chunk, ranker.spec.schema.item_rows), dtype=np.int32))
            tokens.append(ops.convert_to_numpy(part[0]))
            present.append(ops.convert_to_numpy(part[1]))
        form.tokens.assign(np.concatenate(tokens))
        form.present.assign(np.concatenate(present))
        for mine, trained in zip(form.network.weights, ranker.network.weights, strict=True):
            if mine.path.split("/")[-2:] != trained.path.split("/")[-2:]:
                raise ValueError(
                    f"ranker.network must have the weights of its config, received {trained.path} for {mine.path}"
                )
            # Moments of popularity lie in the lines of one table, the newest last.
            older = trained.shape[0] - mine.shape[0] if mine.shape else 0
            mine.assign(trained[older:] if older else trained)
        return form

    def save(self, folder: str | Path) -> None:
        """Writes `ranking.json` and `ranking.weights.h5` into a folder (made if need be); the description comes
        last."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.save_weights(folder / WEIGHTS)
        description = {
            "spec": json.loads(self.spec.to_json()),
            "config": json.loads(self.config.to_json()),
            "calibrations": self.calibrations,
            "score_weights": self.score_weights,
            "blend": self.blend,
            "trees": 0 if self.trees is None else self.trees.count,
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2))

    @classmethod
    def load(cls, folder: str | Path) -> RankingServingForm:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: if the folder holds no saved ranker.
        """
        folder = Path(folder)
        if not (folder / DESCRIPTION).exists():
            raise FileNotFoundError(f"folder must hold {DESCRIPTION}, received {folder}; train the ranking stage first")
        description = json.loads((folder / DESCRIPTION).read_text())
        form = cls(
            RankerSpec.from_json(json.dumps(description["spec"])),
            RankingConfig.from_json(json.dumps(description["config"])),
            description["calibrations"],
            description["score_weights"],
            description["blend"],
            description.get("trees", 0),
        )
        form.load_weights(folder / WEIGHTS)
        return form
