"""The feature store: reopens equal, loses under a thousandth of a cosine, and aligns ready-made vectors by id."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data.features import FeatureStore, FeatureWriter
from data.half_precision import fp16_cosine_loss, fp16_cosine_losses
from data.ready_vectors import ReadyVectors
from data.schema import MODALITIES


def test_write_then_open_is_equal(tmp_path):
    rng = np.random.default_rng(0)
    present = rng.random((40, 4)) < 0.7
    present[0] = False
    present[:, [MODALITIES.index("audio"), MODALITIES.index("video")]] = False
    tables = {"image": rng.normal(size=(40, 12)), "text": rng.normal(size=(40, 8))}
    FeatureStore.write(tmp_path / "store", tables, present, info={"seconds": 1.5})
    store = FeatureStore.open(tmp_path / "store")
    assert store.modalities == ("text", "image") and store.widths == {"text": 8, "image": 12}
    assert store.item_rows == 40 and store.info == {"seconds": 1.5} and store.quarantine().empty
    np.testing.assert_array_equal(store.present, present)
    for name, table in tables.items():
        stored, mask = store.table(name), present[:, MODALITIES.index(name)]
        assert isinstance(stored, np.memmap) and not stored.flags.writeable
        np.testing.assert_array_equal(stored[mask], table[mask].astype(np.float16))
        assert not stored[~mask].any()
        np.testing.assert_array_equal(store.gather(name, np.array([3, 0])), np.asarray(stored[[3, 0]], np.float32))


@settings(deadline=None)
@given(
    arrays.arrays(
        np.float32, (5, 16), elements=st.floats(-1e4, 1e4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)
    )
)
def test_fp16_loses_less_than_a_thousandth_of_a_cosine(vectors):
    assert fp16_cosine_loss(vectors, vectors.astype(np.float16)) < 1e-3


def test_cosine_loss_is_measured(tmp_path):
    writer = FeatureWriter(tmp_path, 3)
    writer.add("text", 2)
    writer.put("text", [1], [[1.0, 1.0]])
    assert writer.cosine_loss["text"] == pytest.approx(0, abs=1e-12)
    vector = np.array([1.0, 1.0 + 2**-11 + 2**-13], np.float32)  # between two numbers of fp16
    assert writer.put("text", [2], [vector]).all()
    half = vector.astype(np.float16).astype(np.float64)
    cosine = vector @ half / np.linalg.norm(vector.astype(np.float64)) / np.linalg.norm(half)
    assert writer.cosine_loss["text"] == pytest.approx(1 - cosine, rel=1e-6) and cosine < 1


def test_vectors_that_lose_too_much_stay_absent(tmp_path):
    tiny = np.array([1.5 * 2.0**-24, 2.0**-24])  # below fp16's smallest steps: becomes (2, 1) of them
    lost = 1 - 4 / np.sqrt(1.5**2 + 1) / np.sqrt(5)
    assert lost > 1e-3 and fp16_cosine_loss(tiny[None], tiny[None].astype(np.float16)) == pytest.approx(lost)
    assert fp16_cosine_losses(np.array([[1e-9, 1e-9], [0, 0]]), np.zeros((2, 2), np.float16)).tolist() == [1, 0]
    writer = FeatureWriter(tmp_path, 5)
    writer.add("text", 2)
    assert writer.put("text", [1, 2, 3, 4], [tiny, [1e-9, 1e-9], [0, 0], [3, 4]]).tolist() == [False, False, True, True]
    assert writer.cosine_loss["text"] < 1e-9
    assert writer.close().present[:, MODALITIES.index("text")].tolist() == [False, False, False, True, True]


def test_vectors_beyond_fp16_stay_absent(tmp_path):
    writer = FeatureWriter(tmp_path, 4)
    writer.add("image", 2)
    stored = writer.put("image", [1, 2, 3], [[np.nan, 0], [70_000, 0], [1, 2]])
    assert stored.tolist() == [False, False, True]
    assert writer.close().present[:, MODALITIES.index("image")].tolist() == [False, False, False, True]


def test_writer_refuses_what_does_not_fit(tmp_path):
    writer = FeatureWriter(tmp_path, 4)
    with pytest.raises(ValueError, match="modality: must be among"):
        writer.add("smell", 2)
    writer.add("text", 2)
    with pytest.raises(ValueError, match=r"vectors: must be \(1, 2\).*received \(1, 3\)"):
        writer.put("text", [1], [[1, 2, 3]])
    for row in (0, 4):
        with pytest.raises(ValueError, match=r"rows: must lie in 1\.\.3"):
            writer.put("text", [row], [[1, 2]])


def test_open_refuses_what_does_not_belong_together(tmp_path):
    with pytest.raises(FileNotFoundError, match="feature store"):
        FeatureStore.open(tmp_path)
    present = np.zeros((3, 4), bool)
    FeatureStore.write(tmp_path, {"text": np.zeros((3, 2))}, present)
    (tmp_path / "widths.json").write_text(json.dumps({"text": 5}))
    with pytest.raises(ValueError, match=r"text\.npy: must be float16 \(3, 5\)"):
        FeatureStore.open(tmp_path)
    np.save(tmp_path / "present.npy", present[:, :2])
    with pytest.raises(ValueError, match=r"present\.npy"):
        FeatureStore.open(tmp_path)


def test_open_refuses_a_damaged_table(tmp_path):
    """One flipped bit is found on the first open of a process, without being asked, and again by a thorough one."""
    present = np.zeros((400, 4), bool)
    present[1:, 0] = True
    FeatureStore.write(tmp_path, {"text": np.ones((400, 50))}, present)
    path = tmp_path / "text.npy"
    content, before = bytearray(path.read_bytes()), path.stat()
    content[20_000] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"text\.npy: its checksum .* encode again"):
        FeatureStore.open(tmp_path)
    assert FeatureStore.open(tmp_path, thorough=False).item_rows == 400
    content[20_000] ^= 4
    path.write_bytes(content)
    assert FeatureStore.open(tmp_path).item_rows == 400
    content[20_000] ^= 4
    path.write_bytes(content)
    now = path.stat().st_mtime_ns
    os.utime(path, ns=(now + 10**9, now + 10**9))
    with pytest.raises(ValueError, match="checksum"):
        FeatureStore.open(tmp_path, thorough=True)
    assert before.st_size == path.stat().st_size
    (tmp_path / "checksums.json").unlink()  # a store of ready-made tables need not have one
    assert FeatureStore.open(tmp_path).item_rows == 400


def bring(source, vectors, ids):
    (source / "features").mkdir(exist_ok=True)
    np.save(source / "features" / "audio.npy", vectors)
    pd.DataFrame({"item_id": ids}).to_parquet(source / "features" / "audio.ids.parquet")


def test_ready_vectors_are_aligned_by_id(tmp_path):
    vectors = np.arange(12, dtype=np.float32).reshape(6, 2)
    vectors[2, 1] = np.nan
    vectors[5, 0] = 1e6
    bring(tmp_path, vectors, [30, 10, 20, 99, 10, 40])  # numbers as ids; 99 is not in the catalogue, 10 comes twice
    ready = ReadyVectors.find(tmp_path, "audio")
    writer = FeatureWriter(tmp_path / "store", 5)
    counts = ready.copy_into(writer, "audio", {"10": 1, "20": 2, "30": 3, "40": 4})
    store = writer.close()
    assert counts == {"stored": 2, "quarantined": 3, "outside": 1}
    assert store.table("audio").tolist() == [[0, 0], [2, 3], [0, 0], [0, 1], [0, 0]]
    assert store.present[:, MODALITIES.index("audio")].tolist() == [False, True, False, True, False]
    rows = store.quarantine().set_index("row")
    assert set(rows["file"]) == {"features/audio.npy"} and sorted(rows.index) == [2, 4, 5]
    assert "not finite" in rows.reason[2] and "duplicate" in rows.reason[4] and "overflow" in rows.reason[5]
    assert json.loads(rows.record[2]) == {"item_id": "20", "modality": "audio"}


def test_whole_numbers_kept_as_floats_are_the_same_ids(tmp_path):
    bring(tmp_path, np.eye(3, dtype=np.float32), [1.0, 12345678901.0, None])
    assert ReadyVectors.find(tmp_path, "audio").ids.tolist() == ["1", "12345678901", None]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros(4), r"must be numbers \[R, F_m\], received float64 \(4,\)"),
        (np.zeros((4, 0)), "must be numbers"),
        (np.zeros((3, 2)), "3 vectors and 4 ids"),
        (np.full((4, 2), "x"), "must be numbers"),
    ],
)
def test_ready_vectors_of_a_wrong_shape(tmp_path, vectors, message):
    bring(tmp_path, vectors, ["a", "b", "c", "d"])
    with pytest.raises(ValueError, match=message):
        ReadyVectors.find(tmp_path, "audio")


def test_ready_vectors_need_ids(tmp_path):
    assert ReadyVectors.find(tmp_path, "audio") is None
    bring(tmp_path, np.zeros((1, 2)), ["a"])
    pd.DataFrame({"id": ["a"]}).to_parquet(tmp_path / "features" / "audio.ids.parquet")
    with pytest.raises(ValueError, match="must have the column item_id"):
        ReadyVectors.find(tmp_path, "audio")
    (tmp_path / "features" / "audio.ids.parquet").unlink()
    with pytest.raises(ValueError, match=r"needs features/audio\.ids\.parquet"):
        ReadyVectors.find(tmp_path, "audio")
