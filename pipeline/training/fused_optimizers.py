"""Optimizers that change a weight by one operation of TensorFlow, and work out what all weights share once a step."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class OneOperation(keras.optimizers.Optimizer):
    """What an optimizer of Keras takes to be one operation a weight.

    Keras writes every step out in elementwise operations, a pass over the weights each, and asks for the learning rate, a
    schedule with a condition in it, once a weight and once more for its decay: of fifty weights most are small, and what they
    cost is the number of operations, in every step and when it is traced. Here TensorFlow's own kernels make one pass. The
    formula is Keras's; sums round in another order. On JAX, and where several devices share the weights, Keras's own step is
    taken: XLA joins the passes there.

    To be put before an optimizer of Keras among the bases.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.one_operation, self._rate = on_one_device() and not getattr(self, "amsgrad", False), None

    def _backend_apply_gradients(self, grads: list, trainable_variables: list) -> None:
        if not self.one_operation:
            return super()._backend_apply_gradients(grads, trainable_variables)
        self._rate = ops.cast(self.learning_rate, "float32")
        try:
            super()._backend_apply_gradients(grads, trainable_variables)
        finally:
            self._rate = None

    def _get_current_learning_rate(self) -> Any:
        return super()._get_current_learning_rate() if self._rate is None else self._rate

    def _apply_weight_decay(self, variables: list) -> None:
        if self._rate is None or self.weight_decay is None:
            return super()._apply_weight_decay(variables)
        share = self._rate * self.weight_decay
        for variable in variables:
            value = variable_of(variable)
            if self._use_weight_decay(value):
                value.assign_sub(value * share)

    def _backend_update_step(self, grads: list, trainable_variables: list, learning_rate: Any) -> None:
        if self._rate is None:
            return super()._backend_update_step(grads, trainable_variables, learning_rate)
        import tensorflow as tf

        rate = self._rate_of_step(learning_rate)
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            value = variable_of(variable)
            if value.dtype == tf.float32:
                self._move(tf.raw_ops, value, self._get_variable_index(variable), tf.convert_to_tensor(gradient), rate)
            else:
                self.update_step(gradient, value, learning_rate)

    def _rate_of_step(self, learning_rate: Any) -> Any:
        """The rate that all weights of a step share."""
        return learning_rate

    def _move(self, kernels: Any, value: Any, index: int, gradient: Any, rate: Any) -> None:
        """Change the weight of that index, and what is remembered of it."""
        raise NotImplementedError


class FusedAdam(OneOperation, keras.optimizers.Adam):
    """Adam, `w <- w - a m / (sqrt(v) + e)` with `a = rate sqrt(1 - b2^t) / (1 - b1^t)`, in one operation a weight.

    Paper: Kingma and Ba, *Adam: A Method for Stochastic Optimization*, ICLR 2015. Arguments: as `keras.optimizers.Adam`;
    `amsgrad`, which TensorFlow has no kernel for, is Keras's own step.

    Example:
        >>> weight = keras.Variable([1.0, 1.0])
        >>> FusedAdam(0.1).apply([ops.array([2.0, -3.0])], [weight])
        >>> [round(float(value), 4) for value in weight.value]
        [0.9, 1.1]
    """

    def _rate_of_step(self, learning_rate: Any) -> Any:
        step = ops.cast(self.iterations + 1, "float32")
        first, second = (1.0 - ops.power(ops.cast(beta, "float32"), step) for beta in (self.beta_1, self.beta_2))
        return learning_rate * ops.sqrt(second) / first

    def _move(self, kernels: Any, value: Any, index: int, gradient: Any, rate: Any) -> None:
        kernels.ResourceApplyAdam(
            var=value.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=0.0,  # the rate is corrected for the start already
            beta2_power=0.0,
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class FusedAdamW(FusedAdam, keras.optimizers.AdamW):
    """`FusedAdam` whose weights shrink by `rate * weight_decay` of themselves before they move.

    Paper: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019. Arguments: as `keras.optimizers.AdamW`.

    Example:
        >>> weight = keras.Variable([1.0])
        >>> FusedAdamW(0.1, weight_decay=0.5).apply([ops.array([2.0])], [weight])
        >>> round(float(weight[0]), 4)
        0.85
    """


class FusedAdagrad(OneOperation, keras.optimizers.Adagrad):
    """Adagrad, `a <- a + g^2`, `w <- w - rate g / sqrt(a)`, in one operation a weight: dense tables of vectors are passed over
    once.

    Keras adds `epsilon` under the root; beside the first accumulator, which must be above 0, it is nothing. Paper: Duchi, Hazan
    and Singer, *Adaptive Subgradient Methods*, JMLR 2011. Arguments: as `keras.optimizers.Adagrad`.

    Example:
        >>> weight = keras.Variable([1.0])
        >>> FusedAdagrad(0.1, initial_accumulator_value=0.25).apply([ops.array([1.0])], [weight])
        >>> round(float(weight[0]), 4)  # 1 - 0.1 / sqrt(1.25)
        0.9106
    """

    def _move(self, kernels: Any, value: Any, index: int, gradient: Any, rate: Any) -> None:
        accumulator = self._accumulators[index].value.handle
        kernels.ResourceApplyAdagrad(var=value.handle, accum=accumulator, lr=rate, grad=gradient)


def variable_of(weight: Any) -> Any:
    """TensorFlow's own variable of a weight, which Keras hands on as either."""
    return weight.value if isinstance(weight, keras.Variable) else weight


def on_one_device() -> bool:
    """Whether weights that are made now lie on one device of TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.distribute.has_strategy()
