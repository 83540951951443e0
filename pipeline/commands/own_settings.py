"""The settings of a finished run, for commands that work on it."""

from __future__ import annotations

from pathlib import Path


def own_settings(out: Path, config: Path | None, run: Path | None = None) -> Path:
    """The file of settings that a command was given, else the one that a run was made with.

    Args:
        out: run folder, of a run or of nightly jobs. config: of the command line.
        run: the one that made the release which the command works on; None = that of the newest release, which may be a
            canary with settings of its own, or the run folder.

    Raises:
        StageError: none was given, and the run has none.
    """
    from pipeline.nightly.record import current_run
    from pipeline.reproduce_record import SETTINGS
    from pipeline.stage import StageError

    if config is not None:
        return config
    places = (current_run(out), out) if run is None else (run,)
    own = [place / SETTINGS for place in places if place is not None and (place / SETTINGS).is_file()]
    if not own:
        raise StageError(f"--config: {run or out} does not say with which settings it was made; name their file.")
    return own[0]
