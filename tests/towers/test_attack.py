"""Adversarial examples: the gradient by finite differences, the ball's rim, and never a lower gain for more steps."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops

from data.schema import Schema
from tests.towers import tiny_presets
from towers.attack import fgsm, pgd, project, relative_radius, steepest
from towers.config import TowerConfig
from towers.image_embedder import ImageEmbedderEncoder
from towers.input_gradient import InputGradient
from towers.media_attack import attack_pixels, attack_sound, pixel_gain, pixel_scaling
from towers.two_tower import TwoTower

ITEMS = np.array([1, 2, 3, 4])


@pytest.fixture(scope="module")
def world():
    """An item tower of two modalities, queries, and the gain of each item: its mean score."""
    rng = np.random.default_rng(0)
    schema = Schema(user_rows=2, item_rows=6, modalities={"text": 5, "image": 7})
    tower = TwoTower(schema, TowerConfig(width=6, history_length=2)).item_tower
    tower.output_dense.kernel.assign(rng.normal(size=(6, 6)))
    content = {name: rng.normal(size=(4, width)).astype(np.float32) for name, width in schema.modalities.items()}
    for name, table in content.items():
        tower.projections[name].adapt(table, np.ones(4, bool))
    query = ops.convert_to_tensor(rng.normal(size=6).astype(np.float32))

    def gain(inputs):
        vectors, _ = tower(ops.convert_to_tensor(ITEMS), inputs, ops.ones((4, 2), "bool"))
        return ops.matmul(vectors, query)

    def score(inputs):
        return ops.convert_to_numpy(gain({name: ops.convert_to_tensor(part) for name, part in inputs.items()}))

    return content, score, InputGradient(gain, {name: part.shape for name, part in content.items()})


def numeric_gradient(score, content, name, step=1e-2):
    slopes = np.zeros_like(content[name])
    for column in range(slopes.shape[1]):
        ends = []
        for sign in (1, -1):
            moved = content[name].copy()
            moved[:, column] += sign * step
            ends.append(score({**content, name: moved}))
        slopes[:, column] = (ends[0] - ends[1]) / (2 * step)
    return slopes


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_is_one_step_along_the_numeric_gradient(world, norm):
    content, score, gradient = world
    radius = {name: relative_radius(part, 0.1, norm) for name, part in content.items()}
    moved = fgsm(gradient, content, radius, norm)
    for name, part in content.items():
        slopes = numeric_gradient(score, content, name)
        change = moved[name] - part
        if norm == "linf":
            sure = np.abs(slopes) > 1e-3
            assert sure.mean() > 0.8
            expected = np.sign(slopes) * radius[name][:, None]
            np.testing.assert_allclose(change[sure], expected[sure], atol=1e-5)
        else:
            expected = slopes / np.linalg.norm(slopes, axis=1, keepdims=True) * radius[name][:, None]
            np.testing.assert_allclose(change, expected, atol=2e-2 * radius[name].max())


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("epsilon", [0.03, 0.5, 2.0])
def test_pgd_stays_in_the_ball_and_is_never_below_fgsm(world, norm, epsilon):
    content, score, gradient = world
    radius = {name: relative_radius(part, epsilon, norm) for name, part in content.items()}
    one, many = fgsm(gradient, content, radius, norm), pgd(gradient, content, radius, norm, steps=8)
    for name, part in content.items():
        change = np.abs(many[name] - part)
        size = change.max(axis=1) if norm == "linf" else np.linalg.norm(change, axis=1)
        assert (size <= radius[name] * (1 + 1e-4) + 1e-6).all()
    before, stepped, walked = (score(inputs) for inputs in (content, one, many))
    assert (walked >= stepped - 1e-6).all() and (walked >= before - 1e-6).all()
    assert (walked > before + 1e-3).any()


def test_a_line_is_attacked_alone_as_among_others_and_a_radius_of_zero_moves_nothing(world):
    content, _, gradient = world
    radius = {name: relative_radius(part, 0.2, "l2") for name, part in content.items()}
    others = {name: np.concatenate([part[:1], part[1:] * 3 + 1]) for name, part in content.items()}
    still = {name: np.where(np.arange(4) == 0, part, 0.0) for name, part in radius.items()}
    together, alone = pgd(gradient, content, radius, "l2"), pgd(gradient, others, still, "l2")
    for name in content:
        np.testing.assert_allclose(alone[name][0], together[name][0], atol=1e-5)
        np.testing.assert_array_equal(alone[name][1:], others[name][1:])


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, (3, 4), elements=st.floats(-9, 9)), st.sampled_from(["l2", "linf"]), st.floats(0, 5))
def test_a_projection_is_inside_and_leaves_what_is_inside(change, norm, size):
    radius = np.full(3, size)
    inside = project(change, radius, norm)
    lengths = np.linalg.norm(inside, axis=1) if norm == "l2" else np.abs(inside).max(axis=1)
    assert (lengths <= size + 1e-9).all()
    np.testing.assert_allclose(project(inside, radius, norm), inside, atol=1e-9)
    assert np.isfinite(steepest(change, norm)).all()


def test_errors_name_the_rule(world):
    content, _, gradient = world
    radius = {name: np.ones(4) for name in content}
    with pytest.raises(ValueError, match="norm: must be 'l2' or 'linf', received 'l1'"):
        fgsm(gradient, content, radius, "l1")
    with pytest.raises(ValueError, match=r"radius: must be \[B\] of at least 0"):
        pgd(gradient, content, {**radius, "text": -np.ones(4)}, "l2")
    with pytest.raises(ValueError, match="steps: must be at least 1, received 0"):
        pgd(gradient, content, radius, steps=0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    tiny_presets.efficientnet(folder / "net")
    return ImageEmbedderEncoder(str(folder / "net"))


def test_pixels_within_epsilon_raise_the_score_of_the_item(encoder):
    pictures = np.random.default_rng(1).integers(0, 256, (2, 33, 33, 3), dtype=np.uint8)
    pictures[0, :9] = 0
    schema = Schema(user_rows=2, item_rows=3, modalities={"image": encoder.width})
    tower = TwoTower(schema, TowerConfig(width=6, history_length=2)).item_tower
    query = np.random.default_rng(2).normal(size=6).astype(np.float32)

    def gain(inputs):
        vectors, _ = tower(ops.convert_to_tensor([1, 2]), inputs, ops.ones((2, 1), "bool"))
        return ops.matmul(vectors, ops.convert_to_tensor(query))

    def score(batch):
        return ops.convert_to_numpy(gain({"image": ops.convert_to_tensor(encoder.encode(batch))}))

    moved = {method: attack_pixels(encoder, gain, pictures, 4, method=method, steps=5) for method in ("fgsm", "pgd")}
    for attacked in moved.values():
        assert attacked.dtype == np.uint8 and np.abs(attacked.astype(int) - pictures.astype(int)).max() <= 4
    before = score(pictures)
    assert (score(moved["pgd"]) > before).all() and (score(moved["pgd"]) >= score(moved["fgsm"]) - 1e-4).all()
    noise = np.random.default_rng(3).integers(-4, 5, pictures.shape) + pictures
    assert (score(moved["pgd"]) > score(np.clip(noise, 0, 255).astype(np.uint8))).all()
    through = pixel_gain(encoder, gain)({"pixels": ops.convert_to_tensor(pictures.astype(np.float32))})
    np.testing.assert_allclose(ops.convert_to_numpy(through), before, atol=1e-4)


def test_preprocessing_that_is_no_scaling_is_refused(encoder):
    class Squared:
        name, size = "squared", 33

        def tensors(self, batch):
            return (batch.astype(np.float32) / 255) ** 2

    low, high = pixel_scaling(encoder)
    assert low.shape == (33, 33, 3) and (high > low).all()
    with pytest.raises(ValueError, match="must be a scaling of pixels, 'squared' does more"):
        pixel_scaling(Squared())
    with pytest.raises(ValueError, match="must be 1 to 255 and 'fgsm' or 'pgd', received 0 and 'pgd'"):
        attack_pixels(encoder, lambda inputs: inputs["image"], np.zeros((1, 33, 33, 3), np.uint8), 0)


def test_the_model_under_attack_is_left_as_it_was(encoder):
    before = [np.array(weight) for weight in encoder.model.get_weights()]
    attack_pixels(encoder, lambda inputs: ops.sum(inputs["image"], axis=-1), np.zeros((1, 33, 33, 3), np.uint8), 2, steps=1)
    for weight, expected in zip(encoder.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert keras.config.backend() in ("tensorflow", "jax")


class LoudestBands:
    """An audio encoder of two numbers: energy of the slow and of the fast half of the spectrum."""

    name, size = "bands", 64

    def spectrogram(self, samples):
        real, imaginary = ops.rfft(samples)
        return ops.log(real**2 + imaginary**2 + 1.0)

    def model(self, bands, training=False):
        return ops.stack([ops.mean(bands[:, :16], axis=1), ops.mean(bands[:, 16:], axis=1)], axis=1)

    def encode(self, clips):
        return ops.convert_to_numpy(self.model(self.spectrogram(ops.convert_to_tensor(clips))))


def test_samples_within_epsilon_raise_the_score_of_a_clip():
    clips = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 64)).astype(np.float32)
    bands, gain = LoudestBands(), lambda inputs: inputs["audio"][:, 1] - inputs["audio"][:, 0]
    before = bands.encode(clips)
    for method in ("fgsm", "pgd"):
        moved = attack_sound(bands, gain, clips, 0.1, method=method, steps=5)
        assert (np.abs(moved - clips).max(axis=1) <= 0.1 * np.abs(clips).max(axis=1) + 1e-6).all()
        after = bands.encode(moved)
        assert (after[:, 1] - after[:, 0] > before[:, 1] - before[:, 0] + 0.05).all()
    with pytest.raises(ValueError, match=r"must make its spectrogram in keras\.ops, 'net' does not"):
        attack_sound(type("Net", (), {"name": "net"})(), gain, clips, 0.1)
