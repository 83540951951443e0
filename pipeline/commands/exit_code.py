"""What a scheduler reads of a command that could not do its work."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

import typer

LOCKED, FAILED, UNDECIDED = 12, 13, 14
"""Another is at work; something failed that may do so no more at the next try; a canary waits for somebody's decision, and
trying again would only make another release. 2 is a wrong command line or setting."""


@contextlib.contextmanager
def telling_failures() -> Iterator[None]:
    """Ends the command with 12 where another is at work, with 14 where a canary is undecided, and with 13 whatever else stops
    the block: with a line on what is known and can be mended, with a traceback on what is not.

    Raises:
        typer.Exit: with the code. typer.BadParameter, ConfigError: as they came; they end with 2.
    """
    from data.durable_file import WriteError
    from data.validation import DatasetError
    from pipeline.nightly.lock import LockedError
    from pipeline.settings.config import ConfigError
    from pipeline.stage import StageError
    from serving.feedback.kafka_source import KafkaSourceError
    from serving.releases.labels import UndecidedCanaryError
    from serving.releases.manifest import ReleaseError

    try:
        yield
    except (typer.Exit, typer.BadParameter, ConfigError):
        raise
    except LockedError as error:
        typer.echo(f"locked: {error}", err=True)
        raise typer.Exit(LOCKED) from None
    except UndecidedCanaryError as error:
        typer.echo(f"undecided: {error}", err=True)
        raise typer.Exit(UNDECIDED) from None
    except (StageError, DatasetError, ReleaseError, WriteError, KafkaSourceError, FileNotFoundError) as error:
        typer.echo(f"failed: {error}", err=True)
        raise typer.Exit(FAILED) from None
    except Exception:
        traceback.print_exc()
        raise typer.Exit(FAILED) from None
