#!/bin/sh
# The nightly job: bring the day's feedback, train on from the last release with the new data, make what the gate lets through
# the canary, clear up. DATA, OUT and CONFIG say where, STORE where encoded media are kept (else beside OUT), STATE where a
# gateway keeps feedback and changed items (else none are brought). Exit codes are those of the job:
# 0 published or nothing new, 10 kept back by the gate, 11 stopped by the data checks, 12 another job is at work, 13 failed,
# 14 published, but the canary of before is undecided; 143 ended by SIGTERM.
set -eu
# As the first process of a container sh would not hear SIGTERM, nor pass it on: the job would be killed with its lock held.
# `$!` names the command from its first moment on.
trap 'trap "" TERM INT; [ -z "${!:-}" ] || { kill -TERM "$!" 2>/dev/null || :; wait "$!" || :; }; exit 143' TERM INT
run() {
    "$@" &
    wait "$!"
}
# A job of these twelve hours that was interrupted goes on with the data that it began with: with more it would be another.
interrupted() {
    for job in "$OUT"/jobs/[0-9]*; do :; done
    [ -n "$(find "$job/job.json" -mmin -720 2>/dev/null)" ] && [ ! -f "$job/outcome.json" ]
}
if [ -n "${STATE:-}" ] && { [ -d "$STATE/feedback" ] || [ -d "$STATE/items" ]; } && ! interrupted; then
    run python -m pipeline add-feedback --state "$STATE" --data "$DATA" || exit $?
fi
run python -m pipeline job --data "$DATA" --out "$OUT" --config "$CONFIG" ${STORE:+--set "encoders.store=$STORE"} || exit $?
# Without a new release the newest one has its label. A canary that nobody has judged is an error of its own: to try again
# would train for another release that has to wait, too.
code=0
run python -m pipeline release promote --to canary --if-new --out "$OUT" || {
    code=$?
    echo "nightly: the job is done, and its release, if any, is published; but it is not the canary (exit code $code)" >&2
    [ "$code" -eq 14 ] || exit "$code"
}
# Also while a canary is undecided: its nights publish releases like others.
run python -m pipeline release gc --newest 3 --remove --out "$OUT" || {
    failed=$?
    [ "$code" -ne 0 ] || exit "$failed"
}
exit "$code"
