"""The content store: what was flushed is found, exactly, whatever else is written, damaged or killed around it."""

import errno
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from data import content_shard, content_store
from data.content_folder import DAMAGED, ContentStoreError, UnlockedStoreWarning, leftovers, shard_names
from data.content_index import KeyIndex
from data.content_key import content_hash, content_key, hashed_key, key_array, read_content_keys, write_content_keys
from data.content_shard import ShardError, StoredEncoder, read_shard, write_shard
from data.content_store import ContentStore, DamagedShardWarning
from data.content_upkeep import collect_garbage, store_stats, verify_store
from data.durable_file import WRITING, WriteError
from tests.nfs_locks import nfs_flock

WIDTH = 6
ENCODER = StoredEncoder("image", "pack:tiny", "0123abcd", WIDTH)


def make_key(number):
    return hashlib.blake2b(b"%d" % number, digest_size=16).digest()


def make_vector(number):
    """One right answer for every key, exact in fp16."""
    return ((number * np.arange(1, WIDTH + 1)) % 251 - 125).astype(np.float16)


def open_store(folder, **options):
    return ContentStore.open(folder, "image", "pack:tiny", "0123abcd", WIDTH, **options)


def fill(store, numbers):
    numbers = list(numbers)
    return store.append([make_key(n) for n in numbers], np.array([make_vector(n) for n in numbers]).reshape(-1, WIDTH))


def found_numbers(store, numbers):
    """The numbers that are found; each must have its own vector, and the others zeros."""
    numbers = list(numbers)
    found, vectors = store.lookup([make_key(n) for n in numbers])
    assert found.dtype == np.bool_ and vectors.dtype == np.float16 and vectors.shape == (len(numbers), WIDTH)
    for number, there, vector in zip(numbers, found, vectors, strict=True):
        np.testing.assert_array_equal(vector, make_vector(number) if there else np.zeros(WIDTH))
    return {number for number, there in zip(numbers, found, strict=True) if there}


def shards_of(folder):
    inside = folder / ENCODER.folder_name
    return sorted(inside / name for name in shard_names(inside)) if inside.exists() else []


def test_keys_depend_on_content_encoder_and_preprocessing_only():
    parts = [(b"a", "f1", "p1"), ("a", "f1", "p1"), (b"a", "f2", "p1"), (b"a", "f1", "p2"), (b"a", "f1p", "1"), (b"", "f1", "")]
    keys = {content_key(*part) for part in parts}
    assert len(keys) == len(parts) and {len(key) for key in keys} == {16}
    assert content_key(b"a", "f1", "p1") == hashed_key(content_hash(b"a"), "f1", "p1")
    assert content_key("\ud800", "f1", "p1")  # half a surrogate pair, as damaged JSON has it
    with pytest.raises(ValueError, match="32 bytes"):
        hashed_key(b"short", "f1", "p1")
    with pytest.raises(ValueError, match=r"16 bytes each.*15, 17"):
        key_array([b"x" * 15, b"y" * 17])
    with pytest.raises(ValueError, match=r"uint8 \[B, 16\]"):
        key_array(np.zeros((3, 15), np.uint8))


few_bytes = st.binary(min_size=16, max_size=16).map(lambda key: bytes(byte % 2 for byte in key[:2]) * 4 + key[8:9] * 8)


@given(st.lists(st.lists(few_bytes, max_size=12, unique=True), max_size=4), st.lists(few_bytes, max_size=12))
def test_index_finds_what_a_dictionary_finds(shards, asked):
    """Keys that share their first eight bytes, keys in two shards, and an index that grew step by step."""
    answers, index = {}, KeyIndex.empty()
    for number, keys in enumerate(shards):
        keys.sort()
        for row, key in enumerate(keys):
            answers.setdefault(key, (number, row))
        index = index.extended([(number, key_array(keys))])
    asked += list(answers)
    numbers, rows = index.find(key_array(asked))
    assert [(n, r) if n >= 0 else None for n, r in zip(numbers, rows, strict=True)] == [answers.get(k) for k in asked]
    assert index.distinct() == len(answers)
    kept = index.without({0})
    assert set(kept.shards) <= {1, 2, 3} and len(kept.high) == sum(map(len, shards[1:]))


def test_what_is_flushed_is_found_by_others(tmp_path):
    with open_store(tmp_path, shard_rows=4) as writer, open_store(tmp_path) as reader:
        assert found_numbers(reader, range(3)) == set()
        fill(writer, range(6))
        assert found_numbers(reader, range(8)) == {0, 1, 2, 3}  # a full shard; the rest waits in the writer
        assert found_numbers(writer, range(8)) == {0, 1, 2, 3, 4, 5}
        assert writer.contains([make_key(n) for n in range(8)]).tolist() == [True] * 6 + [False] * 2
        writer.flush()
        assert found_numbers(reader, range(8)) == {0, 1, 2, 3, 4, 5} and len(reader) == reader.distinct() == 6
        fill(writer, [5, 5, 6])  # nothing is stored twice
        writer.flush()
        assert len(writer) == 7
    assert writer.folder.name == "image-pack-tiny-0123abcd"


def test_a_shard_that_fills_in_the_middle_of_a_batch_stores_nothing_twice(tmp_path):
    with open_store(tmp_path, shard_rows=3) as store:
        fill(store, [0, 1])
        fill(store, [3, 0, 1, 2, 3, 2])
        store.flush()
        assert len(store) == store.distinct() == 4 and [shard.rows for shard in store.shards].count(3) == 1


def test_another_fingerprint_is_another_place(tmp_path):
    with open_store(tmp_path) as store:
        fill(store, range(3))
    with ContentStore.open(tmp_path, "image", "pack:tiny", "ffff", WIDTH) as other:
        assert found_numbers(other, range(3)) == set()
    with pytest.raises(ValueError, match=r"width: .* width 6 .* received 7; a changed encoder needs another fingerprint"):
        ContentStore.open(tmp_path, "image", "pack:tiny", "0123abcd", 7)
    with pytest.raises(ValueError, match="fingerprint: must be"):
        ContentStore.open(tmp_path, "image", "pack:tiny", "../up", WIDTH)
    with pytest.raises(ValueError, match="'checksums' or 'lengths'"):
        open_store(tmp_path, verify="never")


def test_vectors_that_do_not_survive_fp16_are_refused(tmp_path):
    vectors = np.ones((5, WIDTH), np.float32)
    vectors[1, 2], vectors[2, 0], vectors[3] = np.nan, 70_000, 1e-9
    vectors[4, 1] += 2**-11 + 2**-13
    with open_store(tmp_path) as store:
        assert store.append([make_key(n) for n in range(5)], vectors).tolist() == [True, False, False, False, True]
        with pytest.raises(ValueError, match=r"vectors: must be \(1, 6\).*received \(1, 7\)"):
            store.append([make_key(0)], np.zeros((1, 7)))
        loss = store.cosine_loss
    with open_store(tmp_path) as store:
        found, stored = store.lookup([make_key(n) for n in range(5)])
        assert found.tolist() == [True, False, False, False, True]
        a, b = vectors[4].astype(np.float64), stored[4].astype(np.float64)
        assert store.cosine_loss == loss == pytest.approx(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-6)
        assert 0 < loss < 1e-3


def test_a_gather_over_more_shards_than_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(content_shard, "OPEN_MAPS", 3)
    with open_store(tmp_path, shard_rows=5) as store:
        fill(store, range(100))
        assert len(store.shards) == 20
        numbers = np.random.default_rng(0).integers(0, 130, 500)
        assert found_numbers(store, numbers) == {int(n) for n in numbers if n < 100}
        assert found_numbers(store, []) == set()


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how[0] == "cut":
        content = content[: int(len(content) * how[1])]
    elif how[0] == "flip":
        content[int((len(content) - 1) * how[1])] ^= 1 << how[2]
    elif how[0] == "grow":
        content += bytes(100)
    else:
        content = bytearray(b"not a shard" * how[1])
    path.write_bytes(content)


HARM = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 0.999)),
    st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
    st.tuples(st.just("grow")),
    st.tuples(st.just("replace"), st.integers(0, 100)),
)


@settings(max_examples=60, deadline=None)
@given(how=HARM)
def test_a_damaged_shard_is_set_aside_and_filled_again(tmp_path_factory, how):
    folder = tmp_path_factory.mktemp("store")
    with open_store(folder, shard_rows=4) as store:
        fill(store, range(8))
    broken, whole = shards_of(folder)
    lost = {n for n in range(8) if make_key(n) in {row.tobytes() for row in read_shard(broken).keys}}
    damage(broken, how)
    with pytest.raises(ShardError, match=broken.name):
        read_shard(broken)
    assert list(verify_store(folder).faults) == [broken]
    with pytest.warns(DamagedShardWarning, match=rf"{broken.name}.*encoded again"), open_store(folder) as store:
        assert found_numbers(store, range(8)) == set(range(8)) - lost and store.damaged == [broken.name]
        fill(store, lost)
    with open_store(folder) as store:
        assert found_numbers(store, range(8)) == set(range(8)) and not store.damaged
    assert [path.name for path in leftovers(store.folder)[1]] == [DAMAGED + broken.name] and whole.exists()


def test_lengths_alone_find_a_truncated_shard(tmp_path):
    with open_store(tmp_path, shard_rows=4) as store:
        fill(store, range(8))
    damage(shards_of(tmp_path)[0], ("cut", 0.9))
    with pytest.warns(DamagedShardWarning), open_store(tmp_path, verify="lengths") as store:
        assert len(store) == 4


def test_a_shard_that_breaks_while_open_is_left_out(tmp_path):
    with open_store(tmp_path, shard_rows=4) as store:
        fill(store, range(8))
    with open_store(tmp_path) as store:
        damage(shards_of(tmp_path)[0], ("cut", 0.5))
        with pytest.warns(DamagedShardWarning, match="was"):
            assert len(found_numbers(store, range(8))) == 4
        shards_of(tmp_path)[0].unlink()
        assert found_numbers(store, range(8)) == set()


def test_a_shard_of_another_encoder_is_not_read(tmp_path):
    other = StoredEncoder("image", "pack:tiny", "ffff", WIDTH)
    with open_store(tmp_path) as store:
        write_shard(store.folder, other, key_array([make_key(1)]), make_vector(1)[None], 0.0)
        with pytest.warns(DamagedShardWarning, match="not of"):
            assert found_numbers(store, [1]) == set()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_breaks_nothing(tmp_path, monkeypatch, number):
    def refuse(handle):
        raise OSError(number, os.strerror(number))

    with open_store(tmp_path) as store:
        fill(store, range(4))
        store.flush()
        fill(store, range(4, 6))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refuse)
            with pytest.raises(WriteError, match=os.strerror(number)) as caught:
                store.flush()
        assert ("disk is full" in str(caught.value)) == (number == errno.ENOSPC)
        assert leftovers(store.folder) == ([], []) and len(shards_of(tmp_path)) == 1
        with open_store(tmp_path) as other:
            assert found_numbers(other, range(6)) == {0, 1, 2, 3}
        store.flush()  # there is room again, and what waited is still there
        assert found_numbers(open_store(tmp_path), range(6)) == set(range(6))


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.data.test_content_store import fill, open_store
folder, start, stop, step, pause = sys.argv[2], *map(int, sys.argv[3:])
store = open_store(folder, shard_rows=8)
print("ready", flush=True)
import time
for number in range(start, stop, step):
    fill(store, [number])
    print(number, flush=True)
    time.sleep(pause / 1e6)
store.close()
"""


def start_writer(folder, start, stop, step=1, pause=0):
    root = str(Path(__file__).parents[2])
    arguments = [root, str(folder), *(str(value) for value in (start, stop, step, pause))]
    process = subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_killed_at_any_moment_at_most_one_shard_is_lost(tmp_path):
    rng, start, acknowledged = np.random.default_rng(5), 0, set()
    for _ in range(4):
        process = start_writer(tmp_path, start, start + 100_000)
        time.sleep(rng.uniform(0.02, 0.15))
        process.kill()
        told = [int(line) for line in process.communicate()[0].splitlines(keepends=True) if line.endswith("\n")]
        assert told and process.returncode == -9
        safe = {n for n in told if n < start + len(told) // 8 * 8}
        with open_store(tmp_path) as store:
            there = found_numbers(store, range(start, start + len(told) + 100))
            assert safe <= there and not store.damaged
        acknowledged |= safe
        start = told[-1] + 1000
    assert not verify_store(tmp_path).faults and not verify_store(tmp_path).set_aside
    (tmp_path / ENCODER.folder_name / f"{WRITING}host-1-abc").write_bytes(b"half")
    collect_garbage(tmp_path)
    with open_store(tmp_path) as store:
        assert leftovers(store.folder) == ([], []) and found_numbers(store, acknowledged) == acknowledged


def test_two_write_while_one_reads(tmp_path):
    """Even and odd numbers, with the multiples of 10 wanted by both; a reader sees right vectors, and never fewer."""
    writers = [start_writer(tmp_path, 0, 400, 2, pause=300), start_writer(tmp_path, 1, 400, 3, pause=300)]
    seen, looks = set(), 0
    with open_store(tmp_path) as reader:
        while any(writer.poll() is None for writer in writers):
            now = found_numbers(reader, range(400))
            assert seen <= now
            seen, looks = now, looks + 1
        assert [writer.communicate() and writer.returncode for writer in writers] == [0, 0]
        wanted = {*range(0, 400, 2), *range(1, 400, 3)}
        assert found_numbers(reader, range(400)) == wanted and looks > 3
    (stats,) = store_stats(tmp_path)
    assert stats.vectors == len(wanted) and stats.duplicates <= 66 and not stats.damaged and not stats.unfinished


def write_in(folder, order, shard_rows):
    with open_store(folder, shard_rows=shard_rows) as store:
        fill(store, order)
    return store.folder


def test_collecting_keeps_what_runs_use_and_writes_one_canonical_store(tmp_path):
    numbers = np.random.default_rng(1).permutation(60)
    one, two = write_in(tmp_path / "1", numbers, 7), write_in(tmp_path / "2", sorted(numbers), 16)
    write_in(tmp_path / "2", range(50, 70), 64)
    shard = shards_of(tmp_path / "2")[0]
    shard.with_name("0" * 32 + ".shard").write_bytes(shard.read_bytes())  # as if two processes had written the same rows
    (run := tmp_path / "run" / "encode").mkdir(parents=True)
    write_content_keys(run, {"image": [make_key(n) for n in range(40)], "text": [make_key(999)] * 2})
    live = read_content_keys([tmp_path / "run"])
    assert len(live) == 41
    before = {path: path.read_bytes() for path in two.iterdir()}
    (planned,) = collect_garbage(tmp_path / "2", live, dry_run=True)
    assert {path: path.read_bytes() for path in two.iterdir()} == before
    (done,) = collect_garbage(tmp_path / "2", live)
    assert (done.vectors_kept, done.vectors_dropped, done.shards_after) == (40, 30, 1) and done.freed > 0
    assert (planned.vectors_kept, planned.vectors_dropped, planned.shards_after) == (40, 30, 1)
    collect_garbage(tmp_path / "1", live)
    assert shard_names(one) == shard_names(two) and len(shard_names(one)) == 1
    assert shards_of(tmp_path / "1")[0].read_bytes() == shards_of(tmp_path / "2")[0].read_bytes()
    assert collect_garbage(tmp_path / "2", live)[0].freed == 0  # nothing more to do
    with open_store(tmp_path / "2") as store:
        assert found_numbers(store, range(70)) == set(range(40))
    assert collect_garbage(tmp_path / "2", key_array([make_key(999)]))[0].vectors_kept == 0 and not two.exists()
    with pytest.raises(FileNotFoundError, match="encode it first"):
        read_content_keys([tmp_path / "1"])


def test_collecting_refuses_while_a_run_has_the_store_open(tmp_path):
    with open_store(tmp_path) as store:
        fill(store, range(3))
        store.flush()
        with pytest.raises(ContentStoreError, match="in use by a run"):
            collect_garbage(tmp_path, key_array([]))
        assert collect_garbage(tmp_path, key_array([]), dry_run=True)[0].vectors_dropped == 3
        assert found_numbers(store, range(3)) == {0, 1, 2}
    assert collect_garbage(tmp_path, key_array([]))[0].vectors_dropped == 3


def test_collecting_refuses_an_open_store_on_nfs_too(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr("fcntl.flock", nfs_flock)
    with open_store(tmp_path) as store:
        fill(store, range(3))
        with pytest.raises(ContentStoreError, match="in use by a run"):
            collect_garbage(tmp_path, key_array([]))
    assert not recwarn and collect_garbage(tmp_path, key_array([]))[0].vectors_dropped == 3


def test_a_store_that_cannot_be_locked_is_not_open_in_silence(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.warns(UnlockedStoreWarning, match="No locks available.*start no `features gc`"), open_store(tmp_path) as store:
        fill(store, range(3))
    with pytest.raises(ContentStoreError, match="without locks"):
        collect_garbage(tmp_path, key_array([]))


def test_a_reader_survives_compaction_where_locks_do_not_work(tmp_path, monkeypatch):
    monkeypatch.setattr(content_store, "hold", lambda root: None)
    with open_store(tmp_path, shard_rows=4) as store, open_store(tmp_path) as reader:
        fill(store, range(10))
        store.flush()
        assert found_numbers(reader, range(4)) == {0, 1, 2, 3}
        collect_garbage(tmp_path, key_array([make_key(n) for n in range(9)]))
        assert found_numbers(reader, range(10)) == set(range(9)) == found_numbers(store, range(10))


def test_a_full_disk_while_collecting_loses_nothing(tmp_path, monkeypatch):
    write_in(tmp_path, range(20), 4)

    def refuse(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(WriteError, match="disk is full"):
            collect_garbage(tmp_path, key_array([make_key(n) for n in range(10)]))
    assert found_numbers(open_store(tmp_path), range(20)) == set(range(20))


def test_a_hundred_thousand_of_a_million_are_looked_up_in_no_time(tmp_path):
    rng = np.random.default_rng(2)
    keys = rng.integers(0, 256, (1_000_000, 16), dtype=np.uint8)
    with open_store(tmp_path) as store:
        for start in range(0, len(keys), 62_500):
            vectors = np.repeat(keys[start : start + 62_500, :1], WIDTH, 1).astype(np.float16)
            write_shard(store.folder, ENCODER, keys[start : start + 62_500], vectors, 0.0)
        store.refresh()
        rows = rng.integers(0, len(keys), 100_000)
        asked = [row.tobytes() for row in keys[rows]]
        began = time.process_time()
        found, vectors = store.lookup(asked)
        assert time.process_time() - began < 0.3
        assert found.all() and (vectors == keys[rows, :1]).all()


class StoreMachine(RuleBasedStateMachine):
    """Whatever happens to a store, it answers what a dictionary of its undamaged shards would, and what waits in it."""

    @initialize()
    def begin(self):
        self.folder = Path(self.make_folder())
        self.store = open_store(self.folder, shard_rows=3)
        self.shards, self.waiting = {}, []

    def note(self):
        """Learn which numbers lie in which file; a file's content never changes."""
        there = {path for path in shards_of(self.folder)}
        assert not set(self.shards) - there
        for path in there - set(self.shards):
            keys = {row.tobytes() for row in read_shard(path).keys}
            numbers = {n for n in self.waiting if make_key(n) in keys}
            assert len(numbers) == len(keys), "a shard holds something that was not appended"
            self.shards[path] = numbers
            self.waiting = [n for n in self.waiting if n not in numbers]

    def stored(self):
        return set().union(*self.shards.values())

    @rule(numbers=st.lists(st.integers(0, 25), max_size=7))
    def append(self, numbers):
        fill(self.store, numbers)
        self.waiting += [n for n in dict.fromkeys(numbers) if n not in self.stored() and n not in self.waiting]
        self.note()
        assert len(self.waiting) < 3

    @rule()
    def flush(self):
        self.store.flush()
        self.note()
        assert not self.waiting

    @rule(verify=st.sampled_from(["checksums", "lengths"]))
    def reopen(self, verify):
        self.store.close()
        self.note()
        assert not self.waiting
        self.store = open_store(self.folder, shard_rows=3, verify=verify)

    @rule()
    def killed(self):
        """What waits is lost, and nothing else."""
        self.store._in_use.close()
        self.waiting = []
        self.store = open_store(self.folder, shard_rows=3)

    @precondition(lambda self: self.shards)
    @rule(data=st.data(), how=HARM)
    def damage(self, data, how):
        self.store.close()
        self.note()
        path = data.draw(st.sampled_from(sorted(self.shards)))
        damage(path, how)
        later = path.stat().st_mtime_ns + 10**9
        os.utime(path, ns=(later, later))  # real damage comes later than this
        del self.shards[path]
        with pytest.warns(DamagedShardWarning, match=path.name):
            self.store = open_store(self.folder, shard_rows=3)
        assert self.store.damaged == [path.name]

    @rule(live=st.sets(st.integers(0, 25), min_size=1))
    def collect(self, live):
        self.store.close()
        self.note()
        kept = self.stored() & live
        collect_garbage(self.folder, key_array([make_key(n) for n in sorted(live)]))
        self.shards = {path: kept for path in shards_of(self.folder)}
        assert len(self.shards) == bool(kept)
        self.store = open_store(self.folder, shard_rows=3)

    @invariant()
    def answers(self):
        if hasattr(self, "store"):
            assert found_numbers(self.store, range(30)) == self.stored() | set(self.waiting)
            assert self.store.distinct() == len(self.stored())

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()


def test_any_sequence_of_events(tmp_path_factory):
    from hypothesis.stateful import run_state_machine_as_test

    StoreMachine.make_folder = staticmethod(lambda: tmp_path_factory.mktemp("machine"))
    run_state_machine_as_test(StoreMachine, settings=settings(max_examples=30, stateful_step_count=25, deadline=None))
