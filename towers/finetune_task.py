"""The retrieval task with encoders inside: some items of a batch are encoded in the step, with a gradient."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from keras import ops

from towers.finetune import TrainableEncoder
from towers.loss_options import LossOptions
from towers.task import RetrievalTask
from towers.two_tower import TwoTower


class FinetuneTask(RetrievalTask):
    """`RetrievalTask` in which encoders learn.

    Of a batch's U distinct items K are drawn (`data` says which): their tokens, pixels or sound go through the encoder,
    and the gradient flows back into it. All others keep the vector that the table holds, which is the one they were
    last encoded to: what a step computes is written back. With every item drawn a step is exact end-to-end training;
    with fewer it costs K encodings instead of U, and the encoder's gradient is a random share of the exact one.

    Args:
        encoders: {modality: encoder}, modalities of the towers' schema.
        others: as for `RetrievalTask`.

    Inputs (a dict): those of `RetrievalTask`, and for each trained modality m `drawn_<m>` [K] positions in `items` (0
    where there are fewer than K) and the encoder's inputs of these items as `input_<m>_<name>` [K, ...].
    """

    def __init__(
        self,
        two_tower: TwoTower,
        encoders: Mapping[str, TrainableEncoder],
        *,
        features,
        present,
        profile,
        counts,
        drawn=None,
        loss: LossOptions | None = None,
        batch_size: int | None = None,
    ):
        super().__init__(
            two_tower,
            features=features,
            present=present,
            profile=profile,
            counts=counts,
            drawn=drawn,
            loss=loss,
            batch_size=batch_size,
        )
        unknown = set(encoders) - set(self.modalities)
        if unknown:
            raise ValueError(f"encoders: must be of the towers' modalities {self.modalities}, received {unknown}")
        self.encoder_models = {name: encoder.model for name, encoder in encoders.items()}

    def embed_batch(self, batch, training=False):
        features = self.features_of(batch["items"])
        for name, model in self.encoder_models.items():
            drawn = batch[f"drawn_{name}"]
            fresh = ops.cast(model(encoder_inputs(batch, name), training=False), "float32")
            features[name] = ops.scatter_update(ops.cast(features[name], "float32"), drawn[:, None], fresh)
            if training:
                self._write_back(name, ops.take(batch["items"], drawn), fresh)
        return self.embed_items(batch["items"], training=training, features=features)

    def _write_back(self, name: str, rows, fresh) -> None:
        table = self.tables[f"features_{name}"]
        # Row 0 is padding: it is written too, with the zeros that it holds.
        kept = ops.where(rows[:, None] > 0, ops.stop_gradient(fresh), 0.0)
        table.assign(ops.scatter_update(table.value, rows[:, None], ops.cast(kept, table.dtype)))

    def features(self, name: str) -> np.ndarray:
        """A copy of one modality's table. [N + 1, F_m] float16"""
        return np.array(ops.convert_to_numpy(self.tables[f"features_{name}"]))

    def replace_features(self, name: str, vectors: np.ndarray) -> None:
        """Put a whole table in place: vectors [N + 1, F_m], row 0 zeros."""
        table = self.tables[f"features_{name}"]
        table.assign(np.asarray(vectors, table.dtype))


def encoder_inputs(batch, modality: str):
    """The inputs of one encoder out of a batch: the array itself where it has one input, a dict otherwise.

    Example:
        >>> encoder_inputs({"input_image_": 1, "input_text_token_ids": 2, "input_text_padding_mask": 3}, "text")
        {'token_ids': 2, 'padding_mask': 3}
        >>> encoder_inputs({"input_image_": 1, "input_text_token_ids": 2}, "image")
        1
    """
    prefix = f"input_{modality}_"
    inputs = {key[len(prefix) :]: value for key, value in batch.items() if key.startswith(prefix)}
    return inputs[""] if set(inputs) == {""} else inputs
