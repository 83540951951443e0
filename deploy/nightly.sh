#!/bin/sh
# The nightly job: train what has changed, release it, make the release the canary, clear up. DATA, OUT and CONFIG say where.
set -eu
python -m pipeline run --data "$DATA" --out "$OUT" --config "$CONFIG"
# Without changed models there is no new release, and the newest one has its label. A canary that nobody has judged is an error.
python -m pipeline release promote --to canary --if-new --out "$OUT"
python -m pipeline release gc --newest 3 --remove --out "$OUT"
