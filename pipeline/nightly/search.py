"""The search tower of a nightly job: the last one's, turned to where the items lie now."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np

from data.content_key import KEYS_FILE
from pipeline.training.warm import ridge_map
from towers.search import SearchTower, load_search_tower


def turn_search(previous: Path, old_items: np.ndarray, new_items: np.ndarray, out: Path) -> dict[str, Any]:
    """Write the earlier search tower into `out`, its answers carried into the new embeddings' basis.

    With `E_old = E_new M` over the items that both know, `<s, e_old> = <s M', e_new>`: the layers that make s are multiplied
    by M', so a question finds what it found, and new items beside it. Its words it keeps: questions are learned anew in a
    full retraining.

    Args:
        previous: folder of the earlier search stage. old_items: [N' + 1, D'], new_items: [N + 1, D].
    """
    tower, turn = load_search_tower(previous), ridge_map(new_items, old_items).T.astype(np.float32)
    turned = SearchTower(dataclasses.replace(tower.config, width=new_items.shape[1]))
    for before, after in zip(tower.variables, turned.variables, strict=True):
        if tuple(before.shape) == tuple(after.shape):
            after.assign(before)
    for name in ("linear", "output_dense"):
        layer, source = getattr(turned, name), getattr(tower, name)
        layer.kernel.assign(keras.ops.convert_to_numpy(source.kernel.value) @ turn)
        layer.bias.assign(keras.ops.convert_to_numpy(source.bias.value) @ turn)
    turned.save_to(out)
    shutil.copyfile(previous / KEYS_FILE, out / KEYS_FILE)
    return {"trained": True, "turned_from": str(previous)}
