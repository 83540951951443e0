"""Learning curves as TensorBoard event files: `tensorboard --logdir runs/demo/retrieval`."""

from __future__ import annotations

from pathlib import Path


def write_curves(folder: Path, log: list[dict[str, float]]) -> None:
    """One scalar per column of the log (loss, validation NDCG@20, seconds), one step per epoch."""
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default():
        for row in log:
            for name, value in row.items():
                if name != "epoch":
                    tf.summary.scalar(name, value, step=int(row["epoch"]))
    writer.close()
