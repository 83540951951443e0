"""What the tasks share and what each has for itself: one bottom for all, mixtures of experts, progressive extraction.

All three are layers `call(x [..., O], noise=None) -> {head: [..., E]}` that say E as `width`.
"""

from __future__ import annotations

import keras
from keras import ops

from ranking.config import RankingConfig
from ranking.perceptron import Perceptron


class SharedBottom(keras.layers.Layer):
    """One perceptron for all heads.

    Args:
        width_in: O. heads: names. config: `hidden`, `dropout`. seed: of the initial weights.
    """

    def __init__(self, width_in: int, heads: tuple[str, ...], config: RankingConfig, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads
        self.bottom = Perceptron(width_in, config.hidden, config.dropout, seed, name="bottom")
        self.width = self.bottom.width if config.hidden else 0
        self.built = True

    def call(self, x, noise=None):
        shared = self.bottom(x, noise=noise)[..., : self.width]
        return {head: shared for head in self.heads}


class MixtureOfExperts(keras.layers.Layer):
    """MMoE: every head mixes the same experts by a gate of its own.

        f_h(x) = sum_e softmax(x G_h)_e expert_e(x)

    Paper: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018.

    Args:
        width_in: O. heads: names. config: `hidden`, `dropout`, `expert_count`. seed: of the initial weights.
    """

    def __init__(self, width_in: int, heads: tuple[str, ...], config: RankingConfig, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.experts = [
            Perceptron(width_in, config.hidden, config.dropout, seed + 100 * place, name=f"expert_{place}")
            for place in range(config.expert_count)
        ]
        self.gates = {head: _gate(width_in, config.expert_count, f"{head}_gate") for head in heads}
        self.width = self.experts[0].width
        self.built = True

    def call(self, x, noise=None):
        outputs = ops.stack([expert(x, noise=noise) for expert in self.experts], axis=-2)
        return {head: _mix(gate(x), outputs) for head, gate in self.gates.items()}


class ProgressiveExtraction(keras.layers.Layer):
    """PLE: every head has experts of its own beside shared ones, and every layer separates them further.

        layer l:  E^s = {dense(x^s)} shared experts,  E^h = {dense(x^h)} of head h
                  x^h <- sum over E^h and E^s of softmax(x^h G_h);   x^s <- sum over all of softmax(x^s G_s)

    with x^s = x^h = x before the first layer; the last layer has no x^s. Each width of `hidden` is one extraction layer.

    Paper: Tang et al., "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for Personalized
    Recommendations", RecSys 2020.

    Args:
        width_in: O. heads: names. config: `hidden`, `dropout`, `expert_count` (shared experts of a layer; every head has
            half as many, at least one). seed: of the initial weights.
    """

    def __init__(self, width_in: int, heads: tuple[str, ...], config: RankingConfig, seed: int, **kwargs):
        super().__init__(**kwargs)
        own = max(1, config.expert_count // 2)
        self.counts = {"shared": config.expert_count} | {head: own for head in heads}
        self.width, self.levels = width_in, []
        for level, units in enumerate(config.hidden):
            experts = {
                owner: [
                    Perceptron(self.width, (units,), config.dropout, seed + 1000 * level + 100 * place + number,
                               name=f"{owner}_{level}_{number}")
                    for number in range(count)
                ]
                for place, (owner, count) in enumerate(self.counts.items())
            }  # fmt: skip
            last = level == len(config.hidden) - 1
            sizes = {owner: sum(self.counts.values()) if owner == "shared" else own + config.expert_count
                     for owner in self.counts if not (last and owner == "shared")}  # fmt: skip
            gates = {owner: _gate(self.width, size, f"{owner}_gate_{level}") for owner, size in sizes.items()}
            self.levels.append((experts, gates))
            self.width = units
        # Keras saves the layers of a list, but not those of a list in a list.
        self.experts = [expert for experts, _ in self.levels for group in experts.values() for expert in group]
        self.gates = [gate for _, gates in self.levels for gate in gates.values()]
        self.built = True

    def call(self, x, noise=None):
        state = {owner: x for owner in self.counts}
        for experts, gates in self.levels:
            seen = {owner: [expert(state[owner], noise=noise) for expert in experts[owner]] for owner in self.counts}
            everything = [output for outputs in seen.values() for output in outputs]
            read = {owner: everything if owner == "shared" else seen[owner] + seen["shared"] for owner in gates}
            state = {owner: _mix(gate(state[owner]), ops.stack(read[owner], axis=-2)) for owner, gate in gates.items()}
        return {head: state[head] for head in self.counts if head != "shared"}


def _gate(width: int, count: int, name: str) -> keras.layers.Dense:
    """A gate that starts by taking every expert alike."""
    gate = keras.layers.Dense(count, use_bias=False, kernel_initializer="zeros", name=name)
    gate.build((None, width))
    return gate


def _mix(logits, outputs):
    """Weighted mean of experts: logits [..., E], outputs [..., E, H] -> [..., H]."""
    return ops.sum(ops.softmax(logits, axis=-1)[..., None] * outputs, axis=-2)


def build_experts(width: int, heads: tuple[str, ...], config: RankingConfig, seed: int) -> keras.layers.Layer:
    """The kind that `config.experts` names."""
    kinds = {"shared": SharedBottom, "mmoe": MixtureOfExperts, "ple": ProgressiveExtraction}
    return kinds[config.experts](width, heads, config, seed, name=config.experts)
