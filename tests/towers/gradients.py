"""A function's value and gradients on whichever backend Keras runs."""

import keras
import numpy as np
from keras import ops


def value_and_gradients(function, arrays):
    """`function(*arrays)` and its gradient by each, as NumPy; traced as in training."""
    arrays = [np.asarray(array, np.float32) for array in arrays]
    if keras.backend.backend() == "jax":
        import jax

        value, gradients = jax.jit(jax.value_and_grad(function, argnums=tuple(range(len(arrays)))))(*arrays)
    else:
        import tensorflow as tf

        @tf.function(autograph=False)
        def run(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                value = function(*tensors)
            return value, tape.gradient(value, tensors)

        value, gradients = run(*[tf.constant(array) for array in arrays])
    return float(value), [ops.convert_to_numpy(ops.convert_to_tensor(gradient)) for gradient in gradients]
