"""Decoding in processes: files that crash, hang or change are set aside, and everything else is decoded in order."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from data.content_key import content_key
from data.image_decoder import decode_image
from pipeline.content import encode_workers
from pipeline.content.encode_plan import Batch, Content, preprocessing
from pipeline.content.encode_workers import DecodePool, DecodeWorker, decoded_bytes
from tests.data.media_files import image_bytes
from towers.encoders import describe_encoder

CRASHING = "tests.pipeline.crashing_worker"
CARD = describe_encoder("image", "signal:")


def picture(seed):
    return image_bytes(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def batch_of(folder, contents, card=CARD):
    """Write contents as files 0, 1, ... and ask for all of them."""
    for number, content in enumerate(contents):
        (folder / str(number)).write_bytes(content)
    versions = preprocessing(card)
    keys = tuple(content_key(content, card.fingerprint, versions["image"]) for content in contents)
    return Batch("signal:", card, keys, tuple(Content("image", str(n)) for n in range(len(contents))), versions)


def parts(batch, size):
    cuts = [slice(start, start + size) for start in range(0, len(batch.keys), size)]
    return [dataclasses.replace(batch, keys=batch.keys[cut], contents=batch.contents[cut]) for cut in cuts]


def test_order_and_values_are_those_of_the_plain_loop(tmp_path):
    contents = [picture(seed) for seed in range(40)]
    batches = parts(batch_of(tmp_path, contents), 9)
    with DecodePool(tmp_path, workers=2) as pool:
        decoded = list(pool.decode(batches))
    assert [batch for batch, _ in decoded] == batches
    arrays = [array for _, values in decoded for array in values]
    np.testing.assert_array_equal(np.stack(arrays), np.stack([decode_image(content, CARD.size) for content in contents]))


@pytest.mark.parametrize(("bound", "ahead"), [(3 * 96 * 96 * 3, 3), (0, 1)])
def test_what_is_decoded_ahead_is_bounded_by_its_bytes(tmp_path, monkeypatch, bound, ahead):
    monkeypatch.setattr(encode_workers, "AHEAD_BYTES", bound)
    taken = []

    def watched():
        for batch in parts(batch_of(tmp_path, [picture(0)] * 10), 1):
            taken.append(batch)
            yield batch

    with DecodePool(tmp_path) as pool:
        most = max(len(taken) - done for done, _ in enumerate(pool.decode(watched()), start=1))
    assert most == ahead  # beside the one in the encoder
    assert decoded_bytes(taken[0]) == 96 * 96 * 3


@pytest.mark.parametrize("place", [0, 3, 8])
def test_a_file_that_crashes_the_decoder_is_named_and_the_rest_goes_on(tmp_path, place):
    contents = [picture(seed) for seed in range(8)]
    contents.insert(place, b"CRASH" + bytes(100))
    with DecodePool(tmp_path, workers=1, module=CRASHING) as pool:
        ((_, decoded),) = pool.decode([batch_of(tmp_path, contents)])
    assert decoded[place] == "crashed the decoder 2 times (SIGSEGV)"
    assert [isinstance(value, np.ndarray) for value in decoded] == [number != place for number in range(9)]


def test_a_file_that_hangs_is_stopped(tmp_path):
    started = time.monotonic()
    with DecodePool(tmp_path, workers=1, seconds=1.0, module=CRASHING) as pool:
        ((_, decoded),) = pool.decode([batch_of(tmp_path, [picture(0), b"HANG", picture(1), b"BUG"])])
    assert decoded[1] == "took too long: over 1 s to decode" and decoded[3] == "decoder failed: KeyError: 'table'"
    assert isinstance(decoded[0], np.ndarray) and isinstance(decoded[2], np.ndarray)
    assert time.monotonic() - started < 20


def test_a_worker_killed_from_outside_costs_no_file(tmp_path):
    once = b"ONCE" + os.fsencode(tmp_path / "marker") + b"\n" + picture(5)
    with DecodePool(tmp_path, workers=1, module=CRASHING) as pool:
        ((_, decoded),) = pool.decode([batch_of(tmp_path, [picture(0), once, picture(1)])])
    np.testing.assert_array_equal(decoded[1], decode_image(picture(5), CARD.size))
    assert all(isinstance(value, np.ndarray) for value in decoded)


def test_a_file_replaced_meanwhile_is_not_stored_under_the_old_hash(tmp_path):
    batch = batch_of(tmp_path, [picture(seed) for seed in range(4)])
    (tmp_path / "1").write_bytes(picture(4))
    (tmp_path / "2").write_bytes(b"")
    (tmp_path / "3").unlink()
    with DecodePool(tmp_path, workers=1) as pool:
        ((_, decoded),) = pool.decode([batch])
    assert isinstance(decoded[0], np.ndarray)
    for answer, reason in zip(decoded[1:], ("the file was replaced", "empty", "missing"), strict=True):
        assert answer.startswith(f"changed: {reason}")


def test_a_second_process_starts_only_where_the_encoder_waits(tmp_path):
    batches = parts(batch_of(tmp_path, [picture(0)] * 24), 4)
    with DecodePool(tmp_path, workers=2) as pool:
        for _ in pool.decode(batches):
            time.sleep(0.5)  # an encoder slower than the decoder
        assert pool.processes == 1
        slow = dataclasses.replace(batches[0], keys=batches[0].keys * 50, contents=batches[0].contents * 50)
        list(pool.decode([slow, slow]))
        assert pool.processes == 2


def test_leaving_early_ends_every_process(tmp_path):
    with DecodePool(tmp_path, workers=2) as pool:
        next(pool.decode(parts(batch_of(tmp_path, [picture(0)] * 20), 4)))
        processes = [worker._process for _, worker in pool._running]
    assert processes and all(process is None or process.poll() == -signal.SIGKILL for process in processes)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_a_process_that_cannot_start_says_why():
    with pytest.raises(RuntimeError, match=r"does not start: .*No module named"):
        DecodeWorker(module="pipeline.no_such_worker").decode([{}])


def test_the_worker_imports_no_model_library():
    code = (
        "import sys, pipeline.content.encode_worker as worker\n"
        "for kind in ('image', 'audio', 'sound', 'video'): worker.decoder_of(kind)\n"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in ('tensorflow', 'keras', 'towers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
