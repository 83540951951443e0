"""`python -m pipeline pseudonym` and `forget-user`: what a run calls a user, and how it comes to know them no more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.own_settings import own_settings

SaltOption = Annotated[Path, typer.Option("--salt-file", help="The file of `data.pseudonym_salt_file`.")]


def pseudonym(
    salt_file: SaltOption,
    id_: Annotated[list[str], typer.Option("--id", help="User id. May be repeated; one line each is printed.")],
) -> None:
    """Print the pseudonyms under which a run, its releases and their clients know some users.

    Example: python -m pipeline pseudonym --salt-file secrets/salt --id u00001
    """
    from data.pseudonyms import Pseudonyms

    pseudonyms = Pseudonyms.from_file(salt_file)
    for one in id_:
        typer.echo(pseudonyms.of(one))


def forget_user(
    user: Annotated[str, typer.Option("--user", help="The id, as the dataset folder has it.")],
    out: Annotated[Path, typer.Option("--out", help="Run folder.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Its dataset folder; unless given, the next ingest brings the user back.")
    ] = None,
    state: Annotated[Path | None, typer.Option("--state", help="The gateway's folder; <run>/gateway unless given.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file of settings; those of the release that answers unless given.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one setting. May be repeated.")] = None,
    server: Annotated[
        list[str] | None,
        typer.Option("--server", help="HOST:PORT of a model server's gRPC port to wait for. May be repeated."),
    ] = None,
) -> None:
    """Remove a user from dataset, feedback, run and releases, publish what is left, and prove that no trace is left.

    The models are not trained again: what they have learned from the user among all others is in their weights until the
    next training. The models of the stable release are published again, and a canary is withdrawn: promoting one is yours
    to decide. Messages already sent to a stream, backups, and the memory of running servers are out of reach.

    Example: python -m pipeline forget-user --user u00001 --out runs/demo --data runs/world --config configs/demo.toml
    """
    from pipeline.forget.release import answering_run
    from pipeline.forget.user import forget_user as forget
    from pipeline.nightly.lock import LockedError
    from pipeline.settings.config import load_config
    from pipeline.stage import StageError
    from serving.releases.manifest import ReleaseError

    try:
        settings = load_config(own_settings(out, config, None if config else answering_run(out)), set_ or [])
        done = forget(user, out, data=data, state=state, config=settings, servers=server or (), say=typer.echo)
    except (LockedError, ReleaseError) as error:
        raise StageError(str(error)) from None
    typer.echo(
        f"{done.rows:,} rows of the dataset and {done.events:,} events of the feedback removed; "
        + (f"release {done.release} knows the user no more" if done.release else "no release knew the user")
    )
    where = "by every byte" if done.searched.anywhere else "where users are named (the id is too short or a bare number)"
    typer.echo(f"searched {done.searched.files:,} files, {done.searched.bytes:,} bytes, {where}: no trace is left")
    typer.echo("weights learned from the user's events keep that influence until the next training")
    if data is None:
        typer.echo("--data was not given: the dataset folder was not touched, and the next ingest brings the user back")
