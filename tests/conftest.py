"""Environment of the whole suite: set before TensorFlow's first import, which happens at most once a run."""

import functools
import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# What is compiled here runs a few times: LLVM's optimisations take longer than they save (a quarter of a test on JAX).
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Processes beside each other have a core each: threads of theirs would only wait for one another (an eighth of the time).
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

# Tracing a graph makes objects by the hundred thousand and little garbage: looking for it less often, and not among what
# TensorFlow's import has left (`keep_what_is_there`), saves an eighth of a test that trains.
gc.set_threshold(50_000, 10, 10)

LONGEST = (
    "tests/test_end_to_end.py",
    "tests/pipeline/nightly/test_job.py",
    "tests/test_notebooks.py",
    "tests/pipeline/stages/test_content_run.py",
    "tests/pipeline/training/test_accelerator.py",
    "tests/serving/export/test_item_encoder.py",
    "tests/pipeline/retrieval/test_finetune.py",
    "tests/serving/gateway/test_page.py",
    "tests/serving/export/test_search.py",
    "tests/pipeline/peers/test_peers_towers.py",
    "tests/towers/test_retrieval_loss.py",
    "tests/towers/test_sparse_rows.py",
    "tests/pipeline/content/test_encode_ray.py",
    "tests/pipeline/ranker/test_train_ranking.py",
    "tests/pipeline/retrieval/test_train_resume.py",
    "tests/pipeline/retrieval/test_side_losses.py",
    "tests/pipeline/retrieval/test_train_jax.py",
)
"""Files that take longest. They start first, lest one process end with minutes of work and the other with none."""


SHOP_SECONDS = 900
"""For a test that asks for the record shop: whoever is first makes it, through every stage, before its own work begins."""


def pytest_collection_modifyitems(config, items):
    places = {Path(config.rootpath, name): place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    for item in items:
        if "record_shop" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SHOP_SECONDS))


def pytest_runtest_logstart(location):
    keep_what_is_there(location[0])


@functools.cache
def keep_what_is_there(file: str) -> None:
    """Before the first test of a file: imports and what earlier files left for good are never looked through again.

    Servers that unload a model collect garbage themselves, as do trials of a search; over a process that has run some
    files this took a tenth of the time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def record_shop(tmp_path_factory):
    """A finished run of a small record shop, and its dataset; see `tests.record_shop`. Take a `copy` to change it."""
    from tests.record_shop import shared_record_shop

    return shared_record_shop(tmp_path_factory)
