"""Several machines that train the same towers: how many there are, and which of them this process is."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping

JOBS = ("chief", "worker")
"""Jobs of a cluster that train, in the order in which TensorFlow numbers their tasks."""


@dataclasses.dataclass(frozen=True)
class Workers:
    """One process among those that train together.

    Attributes:
        number: processes. place: of this one, from 0; the first keeps what all of them make.
    """

    number: int = 1
    place: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes checkpoints and results."""
        return self.place == 0


ALONE = Workers()


def workers_of(environment: Mapping[str, str] = os.environ) -> Workers:
    """The workers that `TF_CONFIG` names, TensorFlow's own way of telling a process who trains with it.

    Raises:
        ValueError: it is no JSON of that form, or names this process as one that is not there.

    Example:
        >>> cluster = {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}
        >>> words = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}})
        >>> workers_of({"TF_CONFIG": words}), workers_of({})
        (Workers(number=2, place=1), Workers(number=1, place=0))
    """
    words = environment.get("TF_CONFIG", "")
    if not words:
        return ALONE
    try:
        config = json.loads(words)
        cluster, task = config.get("cluster", {}), config.get("task", {})
        members = [(job, index) for job in JOBS for index in range(len(cluster.get(job, [])))]
        mine = (task.get("type", "worker"), int(task.get("index", 0)))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"TF_CONFIG: must be a JSON object with cluster and task, received {words!r}") from error
    if len(members) < 2:
        return ALONE
    if mine not in members:
        raise ValueError(f"TF_CONFIG: task must be one of the cluster's {members}, received {mine}")
    return Workers(len(members), members.index(mine))
