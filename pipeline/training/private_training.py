"""What differs where the two towers are trained under differential privacy: batches, task, loop, and the account of it."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from pathlib import Path
from typing import Any

import keras

from data.dataset import Dataset
from data.histories import Histories
from data.private_batches import RAGGED_USERS, PrivateBatches
from pipeline.settings.privacy_limits import check_retrieval
from pipeline.settings.retrieval import RetrievalConfig
from pipeline.training.epoch_steps import LoopSettings
from pipeline.training.feed import Feed, as_dataset
from pipeline.training.privacy_budget import delta_of, epsilon_spent, noise_multiplier
from towers.two_tower import TwoTower

ENTROPY = "entropy.json"
COVERS = "the weights of the two towers, and all that is computed of them and of the catalogue: item embeddings and index"
LEAVES = (
    "Taken as public: the catalogue, the number of users, the codes of profiles, the moments that part the splits. Not "
    "covered: whatever else is learned of events (the ranking model, popular items), the histories that a server reads, "
    "settings chosen on validation, and the figures and digests beside the model. Each training spends its own epsilon"
)


class PrivateTraining:
    """One training under `[retrieval.privacy]`: a promise to every user about everything that they did.

    With the training events of one user more or less, the chance of any set of weights changes by a factor of e^epsilon at
    most, but for delta. The validation split moves no weight: all epochs are run and the last is kept.

    Args:
        config: with `privacy.epsilon` above 0. dataset: whose users are counted.
        checkpoints: the secret from which users and noise are drawn lies there as long as the training does.
        replicas: devices that share a batch. warm: whether earlier towers are gone on from.

    Raises:
        ValueError: settings that cannot be private; another backend than TensorFlow; several devices; a warm start.
        ModuleNotFoundError: the accountant is not installed.
    """

    def __init__(
        self, config: RetrievalConfig, dataset: Dataset, checkpoints: Path, *, replicas: int = 1, warm: bool = False
    ):
        check_retrieval(config)
        backend = keras.backend.backend()
        if backend != "tensorflow" or replicas > 1 or warm:
            raise ValueError(
                f"retrieval.privacy.epsilon: needs the TensorFlow backend, one device and towers that start anew, received "
                f"{backend}, {replicas} devices and {'a' if warm else 'no'} warm start; set KERAS_BACKEND, "
                f"CUDA_VISIBLE_DEVICES, `job --full`, or epsilon to 0"
            )
        self.config, self.section, self.dataset = config, config.privacy, dataset
        self.users = dataset.schema.user_rows - 1
        self.delta = delta_of(self.section.delta, self.users)
        self.entropy = secret(checkpoints)

    def make_task(self, two_tower: TwoTower, tables: dict[str, Any], histories: Histories) -> tuple[Any, PrivateBatches]:
        """The task and its batches; the noise is chosen here, for as many steps as the settings ask for."""
        from pipeline.training.private_task import PrivateTask

        section, config = self.section, self.config
        task = PrivateTask(
            two_tower,
            **tables,
            clip=section.clip,
            noise_multiplier=0.0,
            users_per_batch=config.batch_size,
            block=section.block,
            label_smoothing=config.loss.label_smoothing,
            learn_temperature=config.loss.learn_temperature,
        )
        batches = PrivateBatches(
            histories,
            users=self.users,
            users_per_batch=config.batch_size,
            events_per_user=section.events_per_user,
            history_length=config.history_length,
            ordered=self.dataset.schema.has_timestamps,
            entropy=self.entropy,
            block=section.block,
            noise_width=task.gradient_width,
        )
        self.rate, self.steps_an_epoch = batches.sampling_rate, len(batches)
        self.noise = noise_multiplier(section.epsilon, self.delta, self.rate, config.epochs * len(batches))
        task.noise_multiplier = self.noise
        return task, batches

    def feed(self, batches: PrivateBatches) -> Feed:
        """How the task reads its batches, whose number of users differs."""
        return lambda epoch, start: as_dataset(batches.epoch(epoch, start), len(batches) - start, RAGGED_USERS)

    def loop(self, settings: LoopSettings) -> LoopSettings:
        """The loop without early stopping."""
        return dataclasses.replace(settings, keep_last=True, steps_a_call=1)

    def told(self, log: list[dict[str, float]]) -> list[dict[str, float]]:
        """The log with what has been spent by the end of each epoch."""
        return [{**row, "epsilon": self.spent(int(row["epoch"]) + 1)} for row in log]

    def spent(self, epochs: int) -> float:
        """Epsilon after so many epochs."""
        return epsilon_spent(self.noise, self.delta, self.rate, epochs * self.steps_an_epoch)

    def account(self) -> dict[str, Any]:
        """For the manifest: what is promised, to whom, about what, and what it rests on."""
        return {
            "unit": "user",
            "epsilon": self.spent(self.config.epochs),
            "delta": self.delta,
            "noise_multiplier": self.noise,
            "clip": self.section.clip,
            "sampling": "Poisson",
            "sampling_rate": self.rate,
            "steps": self.config.epochs * self.steps_an_epoch,
            "events_per_user": self.section.events_per_user,
            "users": self.users,
            "accountant": "dp-accounting, privacy loss distributions, add or remove one user",
            "covers": COVERS,
            "leaves": LEAVES,
        }


def secret(folder: Path) -> tuple[int, ...]:
    """128 secret bits for one training, the same when it goes on after an interruption.

    Users and noise must not come from `retrieval.seed`, which stands in every manifest: whoever knows the noise can take
    it away. The file goes with the checkpoints when the training is done, so that nobody can draw the same again.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        ...     secret(Path(one)) == secret(Path(one)), secret(Path(one)) == secret(Path(other))
        (True, False)
    """
    path = folder / ENTROPY
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        writing = folder / f".{ENTROPY}"
        descriptor = os.open(writing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump([secrets.randbits(32) for _ in range(4)], file)
        os.rename(writing, path)
    return tuple(json.loads(path.read_text()))
