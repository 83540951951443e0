"""The nightly job as an Airflow DAG (Airflow 3): feedback into the dataset, the job, its release as canary, clearing up.

Copy it into the DAGs folder of a worker that has the repository and its environment at `TRIPTYCH_HOME`. A task says what
the job's exit code says: 0 is success; 10 (the gate kept the current release) and 12 (another job is at work) skip the
rest of the night; 11 (the data checks stopped it), 14 (yesterday's canary is undecided) and 2 (a wrong command line) fail
at once, since trying again would end the same way; anything else is tried again, and the job goes on where it was.
"""

from __future__ import annotations

import datetime
import itertools
import os
import subprocess

from airflow.sdk import dag, task

try:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
except ImportError:  # Airflow 3.0 and 3.1 have them there
    from airflow.exceptions import AirflowException, AirflowFailException, AirflowSkipException

HOME = os.environ.get("TRIPTYCH_HOME", "/opt/triptych")
PLACES = {
    "DATA": os.environ.get("TRIPTYCH_DATA", "/var/lib/triptych/dataset"),
    "OUT": os.environ.get("TRIPTYCH_OUT", "/var/lib/triptych/run"),
    "STATE": os.environ.get("TRIPTYCH_STATE", "/var/lib/triptych/gateway"),
    "CONFIG": os.environ.get("TRIPTYCH_CONFIG", "configs/demo.toml"),
}
COMMANDS = {
    "add_feedback": ("add-feedback", "--state", PLACES["STATE"], "--data", PLACES["DATA"]),
    "job": ("job", "--data", PLACES["DATA"], "--out", PLACES["OUT"], "--config", PLACES["CONFIG"]),
    "make_canary": ("release", "promote", "--to", "canary", "--if-new", "--out", PLACES["OUT"]),
    "clear_up": ("release", "gc", "--newest", "3", "--remove", "--out", PLACES["OUT"]),
}
SKIP, FAIL, UNDECIDED = (10, 12), (2, 11, 14), 14


def run(name: str) -> None:
    """One command of `python -m pipeline`; its exit code as Airflow's exceptions."""
    command = (f"{HOME}/.venv/bin/python", "-m", "pipeline", *COMMANDS[name])
    code = subprocess.run(command, cwd=HOME, check=False).returncode
    if code == UNDECIDED:  # the step after this one will not be reached, and its releases would pile up
        run("clear_up")
    if code in SKIP:
        raise AirflowSkipException(f"{name}: exit code {code}, nothing to release")
    if code in FAIL:
        raise AirflowFailException(f"{name}: exit code {code}, not tried again; `python -m pipeline gate --explain` says why")
    if code:
        raise AirflowException(f"{name}: exit code {code}")


@dag(
    schedule="30 2 * * *",
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=datetime.timedelta(hours=12),
    default_args={"retries": 2, "retry_delay": datetime.timedelta(minutes=10)},
    tags=["triptych"],
    doc_md=__doc__,
)
def triptych_nightly():
    """Each step begins when the one before has succeeded."""
    steps = [task(task_id=name)(run)(name) for name in COMMANDS]
    for before, after in itertools.pairwise(steps):
        before >> after


triptych_nightly()
