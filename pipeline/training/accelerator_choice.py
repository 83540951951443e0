"""Which accelerator this process trains on."""

from __future__ import annotations

import functools

import keras

from pipeline.settings.config import RetrievalConfig
from pipeline.training.accelerator import Accelerator
from pipeline.training.workers import workers_of


def accelerator_of(config: RetrievalConfig) -> Accelerator:
    """What `retrieval.accelerator` asks for, on the backend that Keras runs on.

    Raises:
        ValueError: a device that is not there, or several workers on another backend than TensorFlow.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow" and (number := workers_of().number) > 1:
        raise ValueError(f"TF_CONFIG: workers train together on TensorFlow alone, received {number} on {backend}; unset it")
    if backend == "jax":
        from pipeline.training.accelerator_jax import jax_accelerator

        return jax_accelerator(config.accelerator)
    if backend == "tensorflow":
        return tensorflow_accelerator(config.accelerator)
    return Accelerator()


@functools.cache
def tensorflow_accelerator(setting: str) -> Accelerator:
    """The accelerator of this process under TensorFlow under every task, made once."""
    from pipeline.training.accelerator_tensorflow import make_accelerator

    return make_accelerator(setting)
