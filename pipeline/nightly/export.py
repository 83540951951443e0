"""The export of a job in a process of its own: graphs name their functions by what a process has made before."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.nightly.process import JobProcess
from pipeline.settings.config import Config
from pipeline.stage import StageError

if TYPE_CHECKING:
    from serving.server.servable import Servable

INDEX, POLICY = "index", "policy"
"""What it waits for, in this order."""
MEASURED = 30
"""Recommendations that the latency is the median of."""


class Exporter(JobProcess):
    """A process that waits for a job's models and exports them, once.

    In a fresh process the bytes of a release depend on the models alone. In the job's they would depend on whether it has
    also trained them, or was killed in between and only exports. Begun early it costs a job no time: what needs no ranker is
    written while the ranker trains, and the rest while the candidate is judged.

    Args:
        method: see `JobProcess`.
    """

    def __init__(self, method: Literal["spawn", "fork"] = "spawn"):
        super().__init__(_made, method)

    def begin(self, source: Path, folder: Path, config: Config, version: int, previous: Path | None) -> None:
        """Read what needs neither index nor ranker; everything before these is there. It goes on once the index is, and once
        ranker and policy are: `go_on(INDEX)`, `go_on(POLICY)`.

        Args:
            source, folder, config: of the job. version: number of the release, in the job's own `releases/`.
            previous: the release that the job goes on from, see `pipeline.release.export_stage`.
        """
        self.order(source, folder, config, version, previous)

    def finish(self) -> dict[str, Any]:
        """Wait for the release; what `export_stage` returned, and `latency_ms` of a recommendation.

        Raises:
            StageError: the export failed; the message is its own.
        """
        made, failure = self.answer()
        if made is None:
            raise StageError(f"export: {failure}")
        return made


def _made(
    source: Path, folder: Path, config: Config, version: int, previous: Path | None, *, ready: Callable[[], Any]
) -> dict[str, Any]:
    from pipeline.stages.walk import Run

    run = Run(source, folder, config)
    dataset, store = run.dataset(), run.store()
    from pipeline.release.export_stage import export_stage  # a folder that is not ready says so before
    from serving.export.release import RECOMMEND
    from serving.server.servable import Servable

    there, found = set[str](), {}

    def wait_for(stage: str) -> None:
        if stage not in there:
            ready()
        there.add(stage)

    def observe(servable: Servable) -> None:
        found["latency_ms"] = latency_ms(servable, [str(user) for user in dataset.users["user_id"][1 : MEASURED + 1]])

    while True:
        made = export_stage(
            dataset, folder, config, store=store, search=True, first=version, previous=previous, observe=observe,
            wait_for=wait_for,
        )  # fmt: skip
        if made["version"] == version:
            if not found:  # it was published before a kill, and is asked now; made once more, names in its graphs would differ
                observe(Servable(RECOMMEND, version, folder / "releases" / str(version) / RECOMMEND / str(version)))
            return {**made, **found}
        # A release of other models, or with a number that somebody has taken meanwhile.
        shutil.rmtree(folder / "releases")


def latency_ms(servable: Servable, users: Sequence[str]) -> float:
    """Median milliseconds of `recommend` for one known user, by the released graph."""
    from serving.client.recommend_requests import recommend_inputs
    from serving.server.inference import predict_arrays

    times = []
    for user in [users[0], *users]:
        start = time.perf_counter()
        predict_arrays(servable, "", recommend_inputs([user], k=20))
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])
