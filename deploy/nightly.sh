#!/bin/sh
# The nightly job: train what has changed, release it, make it the canary, clear up. DATA, OUT and CONFIG say where.
set -eu
python -m pipeline run --data "$DATA" --out "$OUT" --config "$CONFIG"

# Without changed models there is no new release, and the newest one has its label already.
if python -m pipeline release list --out "$OUT" --json | python -c '
import json, sys
rows = json.load(sys.stdin)
sys.exit(bool(rows[-1]["label"]))
'; then
  python -m pipeline release promote --to canary --out "$OUT"
else
  echo "nothing new to try"
fi
python -m pipeline release gc --newest 3 --remove --out "$OUT"
