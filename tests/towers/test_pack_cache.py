"""Converted weights: made once, read afterwards, whole or not at all, and never in the way."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest

from towers.model_batches import FEW, compiled, predict, predict_tokens
from towers.pack_cache import converted_weights


def arrays():
    return {"w": np.arange(6, dtype=np.float16).reshape(2, 3).T, "bytes": np.frombuffer(b"abc", np.uint8)}


def test_it_converts_once(tmp_path):
    calls = []

    def convert():
        calls.append(1)
        return arrays()

    made = [converted_weights("pack:x", "f" * 16, convert, tmp_path / "weights") for _ in range(3)]
    assert len(calls) == 1 and os.listdir(tmp_path / "weights") == [f"pack-x-{'f' * 16}.safetensors"]
    for one in made:
        assert set(one) == {"w", "bytes"} and one["w"].dtype == np.float16 and one["bytes"].tobytes() == b"abc"
        np.testing.assert_array_equal(one["w"], arrays()["w"])
    converted_weights("pack:x", "0" * 16, convert, tmp_path / "weights")
    assert len(calls) == 2  # other weights or another version


def test_a_torn_file_is_made_again(tmp_path):
    converted_weights("pack:x", "f" * 16, arrays, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.warns(UserWarning, match="it is converted again"):
        again = converted_weights("pack:x", "f" * 16, arrays, tmp_path)
    np.testing.assert_array_equal(again["w"], arrays()["w"])
    assert converted_weights("pack:x", "f" * 16, lambda: pytest.fail("converted"), tmp_path)["bytes"].size == 3


def test_an_array_left_in_the_file_is_a_view_of_it(tmp_path):
    first = converted_weights("pack:x", "f" * 16, arrays, tmp_path, in_file=("w",))
    again = converted_weights("pack:x", "f" * 16, lambda: pytest.fail("converted"), tmp_path, in_file=("w",))
    for made in (first, again):
        np.testing.assert_array_equal(made["w"], arrays()["w"])
        np.testing.assert_array_equal(made["w"][[2, 0]], [[2, 5], [0, 3]])
        assert made["w"].dtype == np.float16 and made["bytes"].tobytes() == b"abc"
    assert isinstance(again["w"], np.memmap) and not again["w"].flags.writeable
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.warns(UserWarning, match="it is converted again"):
        torn = converted_weights("pack:x", "f" * 16, arrays, tmp_path, in_file=("w",))
    np.testing.assert_array_equal(torn["w"], arrays()["w"])
    with pytest.warns(UserWarning, match="it has no other"):
        converted_weights("pack:x", "f" * 16, arrays, tmp_path, in_file=("other",))


def test_a_place_that_cannot_be_written_costs_a_warning(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(UserWarning, match="could not be kept"):
        made = converted_weights("pack:x", "f" * 16, arrays, tmp_path / "file" / "weights")
    assert made["w"].shape == (3, 2)


def test_a_failed_conversion_leaves_nothing(tmp_path):
    def convert():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        converted_weights("pack:x", "f" * 16, convert, tmp_path)
    assert not list(tmp_path.iterdir())


def test_many_may_convert_at_once(tmp_path):
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(converted_weights("pack:x", "f" * 16, arrays, tmp_path)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8 and len(list(tmp_path.iterdir())) == 1
    for one in made:
        np.testing.assert_array_equal(one["w"], arrays()["w"])


CONVERTING = """
import sys, numpy as np
from pathlib import Path
from towers.pack_cache import converted_weights
rows = np.random.default_rng(0).normal(size=(1000, 1000)).astype(np.float32)
print("ready", flush=True)
sys.stdin.readline()
for number in range(12):
    made = converted_weights("pack:x", f"{number:016x}", lambda: {"w": rows + number}, Path(sys.argv[1]))
    assert (made["w"] == rows + number).all(), number
print("done")
"""


def test_two_processes_may_convert_at_once(tmp_path):
    command = [sys.executable, "-c", CONVERTING, str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    both = [
        subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[0] for process in both] == ["done\n", "done\n"]
    assert len(list(tmp_path.iterdir())) == 12  # no half-written file is left


class Counting:
    """A model that adds up its rows and notes the shapes it meets."""

    output_shape = (None, 1)

    def __init__(self):
        self.shapes = []

    def make_predict_function(self):
        self.ready = True

    def predict_on_batch(self, tensors):
        tensor = tensors["ids"] if isinstance(tensors, dict) else tensors
        self.shapes.append(tensor.shape)
        return tensor.reshape(len(tensor), -1).sum(axis=1, keepdims=True)

    def __call__(self, tensors, training):
        assert not training
        return self.predict_on_batch(tensors)


def test_batches_have_few_shapes_and_every_row_once():
    model, rows = Counting(), np.arange(37, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(predict(model, rows, 16), rows)
    assert sorted(model.shapes) == [(8, 1), (16, 1), (16, 1)]
    assert predict(model, rows[:0], 16).shape == (0, 1)


def test_a_single_batch_is_two_halves_for_two_threads():
    model, rows = Counting(), np.arange(40, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(predict(model, rows, 64), rows)
    assert sorted(model.shapes) == [(8, 1), (32, 1)]


def test_two_batches_are_answered_at_a_time_and_in_their_order():
    both = threading.Barrier(2, timeout=20)  # breaks, and with it the test, where one waits for the other

    class Meeting(Counting):
        def predict_on_batch(self, tensors):
            both.wait()
            return super().predict_on_batch(tensors)

    rows = np.arange(64, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(predict(Meeting(), rows, 16), rows)


def test_few_large_rows_go_in_parts_that_hold_little():
    model = Counting()
    pictures = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((400, 400), np.float32)
    np.testing.assert_allclose(predict(model, pictures, 64)[:, 0], 160_000.0 * np.arange(5), rtol=1e-5)
    assert model.shapes == [(2, 400, 400), (2, 400, 400), (1, 400, 400)]


def test_few_rows_are_answered_alike_without_a_graph():
    start = keras.Input((6, 6, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, activation="relu")(start))
    model = compiled(keras.Model(start, keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling2D()(x))))
    pictures = np.random.default_rng(0).normal(size=(FEW + 1, 6, 6, 3)).astype(np.float32)
    few = predict(model, pictures[:FEW], 64)
    assert model.predict_function is None  # nothing was traced
    np.testing.assert_allclose(few, predict(model, pictures, 64)[:FEW], atol=1e-6)
    assert model.predict_function is not None


def test_token_batches_are_sorted_trimmed_and_put_back():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 64, 50)
    ids = rng.integers(1, 9, (50, 64)) * (np.arange(64) < lengths[:, None])
    model = Counting()
    np.testing.assert_array_equal(predict_tokens(model, {"ids": ids}, lengths, 16)[:, 0], ids.sum(axis=1))
    assert {width for _, width in model.shapes} <= {16, 32, 48, 64} and min(model.shapes, key=lambda shape: shape[1])[1] < 64
