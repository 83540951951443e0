"""One training in a process of its own: on another backend, or killed in the middle.

Arguments: folder of the world, folder to fill, folder of checkpoints, settings as JSON, weights to start from or "".
Prints one line for every state saved, and at the end whether TensorFlow was ever imported.
"""

import json
import sys
import time
from pathlib import Path

from pipeline.retrieval import train_retrieval as module
from pipeline.settings.config import RetrievalConfig
from pipeline.training.checkpoint import Checkpoint
from tests.pipeline.training_world import open_world


def start_from(weights):
    """Let every training in this process begin with these weights instead of new ones."""
    make = module.new_towers

    def loaded(*arguments):
        two_tower = make(*arguments)
        two_tower.load_weights(weights)
        return two_tower

    module.new_towers = loaded


def say_what_is_saved():
    save = Checkpoint.save

    def said(self, state, extra=None):
        save(self, state, extra)
        print("saved", state["epoch"], state["step"], flush=True)
        time.sleep(0.2)  # the killer needs a moment

    Checkpoint.save = said


def main(world, out, checkpoints, settings, weights):
    if weights:
        start_from(weights)
    say_what_is_saved()
    dataset, store = open_world(Path(world))
    config = RetrievalConfig(**json.loads(settings))
    Path(out).mkdir(parents=True)
    module.train_retrieval(
        dataset, store, Path(out), Path(checkpoints), config, modalities=("text",), progress=lambda *_: None
    )
    print("tensorflow", "tensorflow" in sys.modules)


if __name__ == "__main__":
    main(*sys.argv[1:])
