"""`python -m pipeline release`: what is published, what is served of it, one step forward, one step back, clearing up."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.commands.exit_code import telling_failures
from pipeline.progress import progress_bar
from pipeline.stage import StageError

if TYPE_CHECKING:
    from serving.releases.manifest import Release
    from serving.releases.promotion import Change

release_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Releases of a run: list, show, verify, promote (to canary, then to stable), rollback, gc.",
)

RunOption = Annotated[Path, typer.Option("--out", help="Run folder; its releases lie in `releases/`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]
ServerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--server",
        help="HOST:PORT of a model server's gRPC port; the label moves once it has loaded the release. May be repeated.",
    ),
]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds to wait for each --server.")]
DEFAULT_RUN = Path("runs/demo")


@release_app.command("list")
def list_(out: RunOption = DEFAULT_RUN, json_: JsonOption = False) -> None:
    """Show every release: number, label, size, items, when it was published.

    Example: python -m pipeline release list --out runs/demo
    """
    from serving.releases.labels import read_labels
    from serving.releases.manifest import read_release
    from serving.releases.release import list_releases

    releases = out / "releases"
    with _told():
        labels = read_labels(releases)
        found = [read_release(releases / str(number)) for number in list_releases(releases)]
    rows = [{**_facts(release), "label": labels.of(release.version)} for release in found]
    if json_:
        typer.echo(json.dumps(rows, indent=2))
        return
    _print_table(
        ("release", "label", "MB", "items", "users", "published (UTC)", "fingerprint"),
        [
            (
                str(row["version"]),
                row["label"],
                f"{row['bytes'] / 1e6:,.1f}",
                f"{row['counts'].get('items', 0):,}",
                f"{row['counts'].get('users', 0):,}",
                row["published"],
                row["fingerprint"][:12],
            )
            for row in rows
        ],
    )
    typer.echo(f"{releases}: {'1 release' if len(rows) == 1 else f'{len(rows)} releases'}, {labels}")


@release_app.command()
def show(
    version: Annotated[int | None, typer.Argument(help="Number of a release; the newest unless given.")] = None,
    out: RunOption = DEFAULT_RUN,
    json_: JsonOption = False,
) -> None:
    """Show one release: its models and their sizes, what it was made from, its label.

    Example: python -m pipeline release show 1 --out runs/demo
    """
    from serving.releases.labels import read_labels
    from serving.releases.manifest import read_release
    from serving.releases.release import latest_release

    releases = out / "releases"
    with _told():
        release = read_release(latest_release(releases) if version is None else releases / str(version))
        label = read_labels(releases).of(release.version)
    facts = {**_facts(release), "label": label, "models": release.model_bytes, "details": release.manifest["details"]}
    if json_:
        typer.echo(json.dumps(facts, indent=2))
        return
    _print_table(("model", "MB"), [(name, f"{size / 1e6:,.1f}") for name, size in release.model_bytes.items()])
    for name in ("version", "label", "published", "fingerprint"):
        typer.echo(f"{name:12} {facts[name] or '-'}")
    for name, value in {**release.manifest["counts"], **release.manifest["details"]}.items():
        typer.echo(f"{name:12} {value if isinstance(value, str | int) else json.dumps(value)}")


@release_app.command()
def verify(
    versions: Annotated[list[int] | None, typer.Argument(help="Numbers; all releases unless given.")] = None,
    out: RunOption = DEFAULT_RUN,
) -> None:
    """Hash every file of releases again; exit code 1 when one is damaged or mixed. Changes nothing.

    Example: python -m pipeline release verify 1 --out runs/demo
    """
    from serving.releases.manifest import ReleaseError
    from serving.releases.release import list_releases, verify_release

    releases, damaged = out / "releases", 0
    chosen = versions or list_releases(releases)
    if not chosen:
        raise StageError(f"{releases}: no release here; run `python -m pipeline export` first")
    for number in chosen:
        try:
            with progress_bar(f"verify {number}") as progress:
                release = verify_release(releases / str(number), progress)
            typer.echo(f"release {number}: whole, {release.bytes / 1e6:,.1f} MB, fingerprint {release.fingerprint[:12]}")
        except ReleaseError as error:
            typer.echo(f"damaged: {error}")
            damaged += 1
    if damaged:
        raise typer.Exit(1)


@release_app.command()
def promote(
    version: Annotated[
        int | None, typer.Argument(help="Number; unless given the canary, or with --to canary the newest release.")
    ] = None,
    out: RunOption = DEFAULT_RUN,
    to: Annotated[Literal["canary", "stable"], typer.Option("--to", help="Which label it gets.")] = "stable",
    if_new: Annotated[bool, typer.Option("--if-new", help="Do nothing where the newest release has a label.")] = False,
    server: ServerOption = None,
    timeout: TimeoutOption = 300.0,
) -> None:
    """Make a release the canary, or the canary stable: all its models at once, by one rewrite of releases/models.config.

    The release is verified first. The one that was stable stays loaded beside it as `previous`, for `rollback`. Ends with 14
    where another canary is undecided, and with 13 where it cannot be done, by a server that does not answer for instance.

    Example: python -m pipeline release promote --to canary --out runs/demo
    Example: python -m pipeline release promote --server 10.0.0.7:8500 --server 10.0.0.8:8500
    """
    from serving.releases.labels import read_labels
    from serving.releases.promotion import promote as move
    from serving.releases.release import latest_release

    releases = out / "releases"
    with telling_failures(), progress_bar("verify") as progress:
        newest = int(latest_release(releases).name)
        if if_new and (label := read_labels(releases).of(newest)):
            typer.echo(f"{releases}: the newest release, {newest}, is {label}; nothing was changed")
            return
        change = move(releases, version, to, servers=server or (), timeout=timeout, progress=progress)
    _say_change(out, change, server)


@release_app.command()
def rollback(out: RunOption = DEFAULT_RUN, server: ServerOption = None, timeout: TimeoutOption = 300.0) -> None:
    """Withdraw the canary or, where there is none, make the previous release stable again.

    Example: python -m pipeline release rollback --out runs/demo
    """
    from serving.releases.promotion import roll_back

    with telling_failures(), progress_bar("verify") as progress:
        change = roll_back(out / "releases", servers=server or (), timeout=timeout, progress=progress)
    _say_change(out, change, server)


@release_app.command()
def gc(
    out: RunOption = DEFAULT_RUN,
    newest: Annotated[int, typer.Option("--newest", help="How many of the newest releases stay, labelled or not.")] = 3,
    remove: Annotated[bool, typer.Option("--remove", help="Do it; without this, only say what would go.")] = False,
    json_: JsonOption = False,
) -> None:
    """Remove old releases without a label, and what killed exports left; without --remove only says what would go.

    Example: python -m pipeline release gc --newest 3 --out runs/demo
    Example: python -m pipeline release gc --newest 3 --remove
    """
    from serving.releases.gc import plan_removals
    from serving.releases.gc import remove as remove_releases

    releases = out / "releases"
    with _told(), progress_bar("gc") as progress:
        removals = remove_releases(releases, newest, progress) if remove else plan_removals(releases, newest)
    if json_:
        typer.echo(json.dumps([{"path": str(r.path), "reason": r.reason, "bytes": r.bytes} for r in removals], indent=2))
        return
    if removals:
        rows = [(removal.path.name, f"{removal.bytes / 1e6:,.1f}", removal.reason) for removal in removals]
        _print_table(("folder", "MB", "why"), rows)
    total = sum(removal.bytes for removal in removals)
    how = "freed" if remove else "would be freed; nothing was changed, --remove does it"
    typer.echo(f"{releases}: {total:,} bytes ({total / 1e6:,.1f} MB) {how}")


def _facts(release: Release) -> dict[str, Any]:
    published = (release.folder / "manifest.json").stat().st_mtime
    return {
        "version": release.version,
        "fingerprint": release.fingerprint,
        "bytes": release.bytes,
        "counts": dict(release.manifest["counts"]),
        "published": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(published)),
    }


def _say_change(out: Path, change: Change, servers: list[str] | None) -> None:
    typer.echo(f"{out / 'releases' / 'models.config'}: {change.before} → {change.after}")
    if servers:
        label = change.after.of(change.version)
        typer.echo(f"{', '.join(servers)}: {label} answers with release {change.version}")
    else:
        typer.echo("Servers that poll this file follow by themselves; --server HOST:PORT waits until they have.")


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output; in a pipe its lines are as long as they need to be."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in columns:
        table.add_column(name, no_wrap=True, justify="right" if name in ("MB", "items", "users", "release") else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False).print(table)


@contextmanager
def _told() -> Iterator[None]:
    """What is refused is a message of the command line, not a traceback."""
    from serving.releases.manifest import ReleaseError

    try:
        yield
    except ReleaseError as error:
        raise StageError(str(error)) from error
