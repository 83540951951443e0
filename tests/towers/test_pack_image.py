"""EfficientNet-Lite0 of the pack: known pictures, an independent network, and a pickle reader that runs nothing."""

import collections
import io
import pickle
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from towers.encoders import describe_encoder
from towers.pack_efficientnet import REPEATS, EfficientNetEncoder
from towers.torch_state_dict import read_state_dict

needs_weights = pytest.mark.skipif(not EfficientNetEncoder.installed(), reason="its package is not installed")
DAISY, BELL_COTE, CASTLE, PALACE, MONASTERY = 985, 442, 483, 698, 663


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return EfficientNetEncoder(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def pictures():
    """A temple in Beijing and a flower, which scikit-learn brings along: uint8 [2, 225, 225, 3]."""
    from sklearn.datasets import load_sample_images

    squares = []
    for pixels in load_sample_images().images:
        image = Image.fromarray(pixels)
        left, top = (image.width - image.height) // 2, 0
        image = image.crop((left, top, left + image.height, image.height)).resize((225, 225), Image.Resampling.BICUBIC)
        squares.append(np.asarray(image))
    return np.stack(squares)


@needs_weights
def test_known_pictures_have_their_classes(encoder, pictures):
    temple, flower = encoder.classes(encoder.encode(pictures))
    assert flower[DAISY] > 0.05 and DAISY in np.argsort(-flower)[:1]
    assert set(np.argsort(-temple)[:4]) == {BELL_COTE, CASTLE, PALACE, MONASTERY}
    np.testing.assert_allclose([temple.sum(), flower.sum()], 1, atol=1e-5)


@needs_weights
def test_batch_equals_single_and_black_is_finite(encoder, pictures):
    rng = np.random.default_rng(0)
    batch = np.concatenate([pictures, rng.integers(0, 256, (3, 225, 225, 3), dtype=np.uint8), np.zeros_like(pictures[:1])])
    together = encoder.encode(batch)
    assert together.shape == (6, 1280) and together.dtype == np.float32 and np.isfinite(together).all()
    for row in range(6):
        np.testing.assert_allclose(encoder.encode(batch[row : row + 1])[0], together[row], atol=2e-4)
    turned, flipped = encoder.encode(np.stack([pictures[1], pictures[1][:, ::-1]]))
    unlike = together[0]

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    assert cosine(turned, flipped) > cosine(turned, unlike) + 0.3
    card = describe_encoder("image", "pack:efficientnet")
    assert (card.fingerprint, card.width, card.size) == (encoder.fingerprint, encoder.width, encoder.size)
    with pytest.raises(ValueError, match=r"batch: must be uint8"):
        encoder.encode(batch.astype(np.float32))


@needs_weights
def test_it_is_the_network_that_the_weights_were_made_for(encoder, pictures):
    """Against the network written out with TensorFlow's "same" padding, straight from the state dict."""
    state = read_state_dict(EfficientNetEncoder.paths()[0])

    def block(x, weights, norm, *, activate=True, depthwise=False, stride=1):
        kernel = state[f"{weights}.weight"]
        options = dict(strides=stride, padding="same", use_bias=False)
        if depthwise:
            layer, kernel = keras.layers.DepthwiseConv2D(kernel.shape[2], **options), kernel.transpose(2, 3, 0, 1)
        else:
            layer = keras.layers.Conv2D(len(kernel), kernel.shape[2], **options)
            kernel = kernel.transpose(2, 3, 1, 0)
        x = layer(x)
        layer.set_weights([kernel])
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + 1e-3)
        x = x * scale + (state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)
        return keras.ops.clip(x, 0, 6) if activate else x

    x = start = keras.Input((225, 225, 3))
    x, number = block(x, "_conv_stem", "_bn0", stride=2), 0
    for stage, (repeats, stride) in enumerate(zip(REPEATS, (1, 2, 2, 2, 1, 2, 1), strict=True)):
        for repeat in range(repeats):
            name, before = f"_blocks.{number}.", x
            number += 1
            if stage:
                x = block(x, f"{name}_expand_conv", f"{name}_bn0")
            first = repeat == 0
            x = block(x, f"{name}_depthwise_conv", f"{name}_bn1", depthwise=True, stride=stride if first else 1)
            x = block(x, f"{name}_project_conv", f"{name}_bn2", activate=False)
            x = x if first else x + before
    x = keras.ops.mean(block(x, "_conv_head", "_bn1"), axis=(1, 2))
    expected = keras.Model(start, x).predict_on_batch((pictures.astype(np.float32) - 127) / 128)
    np.testing.assert_allclose(encoder.encode(pictures), expected, atol=2e-4)


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("call", [Call(eval, "1 + 1"), Call(print, "run"), Call(collections.Counter, "a")])
def test_other_globals_are_refused(tmp_path, capsys, call):
    path = tmp_path / "weights.pth"
    header = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    for content in (pickle.dumps(call, 2), header + pickle.dumps({"a": call}, 2), zipped(pickle.dumps({"a": call}, 2))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"path: must be a PyTorch state dict.*is not allowed"):
            read_state_dict(path)
    assert capsys.readouterr().out == ""  # nothing ran


def test_torn_files_are_named(tmp_path):
    path = tmp_path / "weights.pth"
    for content in (b"", b"PK", b"\x80\x02}.", zipped(b""), pickle.dumps(3, 2) * 5):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="path: must be a PyTorch state dict"):
            read_state_dict(path)


def test_zipped_tensors_views_and_bounds(tmp_path):
    """A state dict pickled by hand: a transposed view with an offset, then one that reaches beyond its storage."""
    path, numbers = tmp_path / "weights.pth", np.arange(10, dtype=np.float32)
    path.write_bytes(zipped(tensor_pickle((2, 3), (1, 2), 1), numbers.tobytes()))
    np.testing.assert_array_equal(read_state_dict(path)["w"], numbers[1:7].reshape(3, 2).T)
    for shape, stride, offset in [((4, 3), (3, 1), 0), ((2,), (1,), 9), ((2,), (-1,), 5), ((1,), (1,), -1)]:
        path.write_bytes(zipped(tensor_pickle(shape, stride, offset), numbers.tobytes()))
        with pytest.raises(ValueError, match="a tensor reaches beyond"):
            read_state_dict(path)


def tensor_pickle(shape, stride, offset):
    """{"w": torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, False, OrderedDict())} as torch writes it."""

    def numbers(values):
        return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"

    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuI10\ntQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"I%d\n" % offset + numbers(shape) + numbers(stride)
    return b"\x80\x02}X\x01\x00\x00\x00w" + call + b"I00\nccollections\nOrderedDict\n)RtRs."


def zipped(pickled, storage=b""):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", storage)
    return content.getvalue()


def test_every_weight_of_the_backbone_is_the_file_s(encoder):
    """None is left at the zeros that it was built with in the place of drawing it."""
    assert all(np.abs(np.asarray(weight)).max() > 0 for weight in encoder.model.weights)
