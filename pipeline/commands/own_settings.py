"""The settings of a finished run, for commands that work on it."""

from __future__ import annotations

from pathlib import Path


def own_settings(out: Path, config: Path | None) -> Path:
    """The file of settings that a command was given, else the one that the released run was made with.

    Args:
        out: run folder, of a run or of nightly jobs. config: of the command line.

    Raises:
        StageError: none was given, and the run folder has none.
    """
    from pipeline.nightly.record import current_run
    from pipeline.reproduce_record import SETTINGS
    from pipeline.stage import StageError

    if config is not None:
        return config
    own = [run / SETTINGS for run in (current_run(out), out) if run is not None and (run / SETTINGS).is_file()]
    if not own:
        raise StageError(f"--config: {out} does not say with which settings it was made; name their file.")
    return own[0]
