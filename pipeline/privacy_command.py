"""`python -m pipeline pseudonym`: what a run with a salt calls a user, for clients and for people who look something up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
