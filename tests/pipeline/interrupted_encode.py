"""An encode run that says after every batch how far it is; killed by test_encode_resume.py in the middle.

Arguments: dataset folder, folder to write, content store, rows of a shard, batch size.
"""

import sys
import time
from types import SimpleNamespace

import pandas as pd

from pipeline.content import encode_part
from pipeline.content.encode import encode

SPECS = {"image": "signal:", "text": "none", "audio": "none", "video": "none"}


def say(what, done, total):
    print(what, done, flush=True)
    time.sleep(0.05)  # the killer needs a moment


def main(source, out, store, shard_rows, batch_size):
    opened = encode_part.ContentStore.open
    encode_part.ContentStore.open = lambda *arguments: opened(*arguments, shard_rows=int(shard_rows))
    items = SimpleNamespace(items=pd.read_parquet(f"{source}/items.parquet"))
    encode(source, items, out, SPECS, store, batch_size=int(batch_size), progress=say)


if __name__ == "__main__":
    main(*sys.argv[1:])
