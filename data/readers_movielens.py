"""MovieLens: `.dat` (ml-1m, ml-10m), `.csv` (ml-latest, ml-25m, ml-32m) and `u.data` (ml-100k)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.readers import Conversion, DatasetWriter, read_delimited, with_numbers
from data.validation import DatasetError

RATINGS = ("user_id", "item_id", "value", "timestamp")
GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
YEAR = r"\((?P<year>\d{4})\)\s*$"
NO_GENRES = "(no genres listed)"


def convert_movielens(source: str | Path, out: str | Path) -> Conversion:
    """Convert an unpacked MovieLens archive of any size; its form is found from the files in it.

    Events are of the kind `rating` with the stars as value; films get title, genres (as categories) and year, users
    what the archive says of them.

    Raises:
        DatasetError: no ratings file of a known name in the folder.
    """
    writer = DatasetWriter(Path(source), Path(out))
    for name, convert in (("ratings.csv", _csv), ("ratings.dat", _dat), ("u.data", _100k)):
        if (writer.source / name).is_file():
            convert(writer)
            return writer.close()
    found = sorted(path.name for path in writer.source.iterdir())[:10]
    raise DatasetError(
        f"{source}: must hold ratings.csv, ratings.dat or u.data, found {found}. Name the unpacked folder."
    )


def _csv(writer: DatasetWriter) -> None:
    ratings, broken = read_delimited(writer.source / "ratings.csv")
    writer.leave_out("ratings.csv: lines with a wrong number of fields", broken)
    _ratings(writer, _rename(ratings, dict(zip(("userId", "movieId", "rating", "timestamp"), RATINGS, strict=True))))
    films, broken = read_delimited(writer.source / "movies.csv")
    writer.leave_out("movies.csv: lines with a wrong number of fields", broken)
    _films(writer, _rename(films, {"movieId": "item_id", "title": "title", "genres": "categories"}))


def _dat(writer: DatasetWriter) -> None:
    ratings, broken = read_delimited(writer.source / "ratings.dat", delimiter="::", names=RATINGS, quoted=False)
    writer.leave_out("ratings.dat: lines with a wrong number of fields", broken)
    _ratings(writer, ratings)
    fields: tuple[str, ...] = ("item_id", "title", "categories")
    path = writer.source / "movies.dat"
    films, broken = read_delimited(path, delimiter="::", names=fields, encoding=_encoding(path), quoted=False)
    writer.leave_out("movies.dat: lines with a wrong number of fields", broken)
    _films(writer, films)
    if (writer.source / "users.dat").is_file():
        fields = ("user_id", "gender", "age", "occupation", "zip")
        users, broken = read_delimited(writer.source / "users.dat", delimiter="::", names=fields, quoted=False)
        writer.leave_out("users.dat: lines with a wrong number of fields", broken)
        writer.users(users)


def _100k(writer: DatasetWriter) -> None:
    ratings, broken = read_delimited(writer.source / "u.data", delimiter="\t", names=RATINGS, quoted=False)
    writer.leave_out("u.data: lines with a wrong number of fields", broken)
    _ratings(writer, ratings)
    fields: tuple[str, ...] = ("item_id", "title", "released", "video_released", "url", *GENRES_100K)
    path = writer.source / "u.item"
    films, broken = read_delimited(path, delimiter="|", names=fields, encoding=_encoding(path), quoted=False)
    writer.leave_out("u.item: lines with a wrong number of fields", broken)
    flags = np.stack([films[name].to_pandas().to_numpy() == "1" for name in GENRES_100K], axis=1)
    genres = ["|".join(name for name, on in zip(GENRES_100K, row, strict=True) if on) for row in flags]
    _films(writer, films.select(["item_id", "title"]).append_column("categories", pa.array(genres, pa.string())))
    if (writer.source / "u.user").is_file():
        fields = ("user_id", "age", "gender", "occupation", "zip")
        users, broken = read_delimited(writer.source / "u.user", delimiter="|", names=fields, quoted=False)
        writer.leave_out("u.user: lines with a wrong number of fields", broken)
        writer.users(with_numbers(users, ["age"]))


def _ratings(writer: DatasetWriter, table: pa.Table) -> None:
    table = with_numbers(table, ["value", "timestamp"])
    writer.interactions(table.append_column("event", pa.array(["rating"] * table.num_rows, pa.string())))


def _films(writer: DatasetWriter, table: pa.Table) -> None:
    year = pc.struct_field(pc.extract_regex(table["title"], YEAR), "year")
    genres = pc.if_else(pc.equal(table["categories"], NO_GENRES), None, table["categories"])
    table = table.set_column(table.column_names.index("categories"), "categories", genres)
    writer.items(table.append_column("year", year.cast(pa.int64())))


def _rename(table: pa.Table, names: dict[str, str]) -> pa.Table:
    missing = sorted(set(names) - set(table.column_names))
    if missing:
        raise DatasetError(f"MovieLens .csv: must have the columns {list(names)}, received {table.column_names}.")
    return table.select(list(names)).rename_columns(list(names.values()))


def _encoding(path: Path) -> str:
    """ml-1m and ml-100k are Latin-1, ml-10m is UTF-8, and none says so."""
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"
