"""Readers: a few lines of each public format become a dataset folder that the ingest takes."""

import numpy as np
import pandas as pd
import pytest

from data.ingest import ingest
from data.readers_mmrec import convert_mmrec
from data.readers_movielens import convert_movielens
from data.readers_table import TableOptions, convert_table, parse_columns
from data.validation import DatasetError


def put(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_dot_", ".")).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def read(folder, name):
    return pd.read_parquet(folder / f"{name}.parquet")


def test_movielens_dat(tmp_path):
    source = put(
        tmp_path / "ml-1m",
        ratings_dot_dat="1::10::5::978300760\n1::20::3::978302109\n2::10::x::978301968\nbroken::line\n",
        movies_dot_dat="10::Amélie (2001)::Comedy|Romance\n20::Les Misérables: I::Drama\n".encode("latin-1"),
        users_dot_dat="1::F::1::10::48067\n2::M::56::16::70072\n",
    )
    done = convert_movielens(source, tmp_path / "out")
    assert done.counts == {"interactions": 3, "items": 2, "users": 2}
    assert done.left_out == {"ratings.dat: lines with a wrong number of fields": 1}
    items = read(tmp_path / "out", "items")
    assert items["title"].tolist() == ["Amélie (2001)", "Les Misérables: I"]
    assert items["year"][0] == 2001 and pd.isna(items["year"][1])
    dataset = ingest(tmp_path / "out", tmp_path / "in")
    assert dataset.report["event_reasons"] == {"value: NaN, infinite or not a number": 1}
    assert dataset.schema.profile == {"gender": 3, "age": 3, "occupation": 3, "zip": 3}
    assert dataset.events["value"].tolist() == [5, 3]


def test_movielens_csv(tmp_path):
    source = put(
        tmp_path / "ml-latest",
        ratings_dot_csv="userId,movieId,rating,timestamp\r\n7,296,5.0,1147880044\r\n7,306,3.5,1147868817\r\n",
        movies_dot_csv='movieId,title,genres\r\n296,"Hello, World (1994)",Comedy\r\n306,Red,(no genres listed)\r\n',
    )
    convert_movielens(source, tmp_path / "out")
    items, log = read(tmp_path / "out", "items"), read(tmp_path / "out", "interactions")
    assert items["title"].tolist() == ["Hello, World (1994)", "Red"]
    assert items["categories"][0] == "Comedy" and pd.isna(items["categories"][1])
    assert log["value"].tolist() == [5.0, 3.5] and log["user_id"].tolist() == ["7", "7"]
    assert log["timestamp"].dtype == np.int64 and set(log["event"]) == {"rating"}


def test_movielens_100k(tmp_path):
    flags = "|".join("1" if name in (5, 16) else "0" for name in range(19))
    source = put(
        tmp_path / "ml-100k",
        u_dot_data="196\t1\t3\t881250949\n186\t1\t4\t891717742\n",
        u_dot_item=f"1|Toy (1995)|01-Jan-1995||http://x|{flags}\n",
        u_dot_user="196|49|M|writer|55105\n",
    )
    convert_movielens(source, tmp_path / "out")
    assert read(tmp_path / "out", "items")["categories"].tolist() == ["Comedy|Thriller"]
    assert read(tmp_path / "out", "users")["age"].tolist() == [49]


def test_mmrec(tmp_path):
    source = put(
        tmp_path / "baby",
        baby_dot_inter="userID\titemID\trating\ttimestamp\tx_label\n0\t2\t5.0\t100\t0\n0\t0\t4.0\t200\t1\n1\t2\t1.0\t300\t2\n",
    )
    image = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(source / "image_feat.npy", image)
    done = convert_mmrec(source, tmp_path / "out")
    assert read(tmp_path / "out", "interactions")["split"].tolist() == ["train", "valid", "test"]
    assert read(tmp_path / "out", "items")["item_id"].tolist() == ["0", "2"]
    ids = pd.read_parquet(tmp_path / "out/features/image.ids.parquet")["item_id"].tolist()
    vectors = np.load(tmp_path / "out/features/image.npy")
    for id_, vector in zip(ids, vectors, strict=True):
        np.testing.assert_array_equal(vector, image[int(id_)])
    assert done.left_out == {"features image: rows of items not in the catalogue": 1}
    assert ingest(tmp_path / "out", tmp_path / "in").report["split"] == "given"
    np.save(source / "image_feat.npy", image[:2])
    with pytest.raises(DatasetError, match="a row for item 2, received 2 rows"):
        convert_mmrec(source, tmp_path / "other")


@pytest.fixture
def prepared(tmp_path):
    """A folder as data sets are often prepared: two splits, a catalogue, posters, vectors with ids of their own."""
    source = put(tmp_path / "prepared")
    log = {"uid": [1, 1, 2, 2, 3], "film": [10, 20, 10, 30, 40], "stars": [5, 4, 3, 2, 1], "fold": [0, 1, 0, 2, -1]}
    pd.DataFrame(log).to_parquet(source / "ratings.parquet", index=False)
    films = {"film": [10, 20, 30, 40], "name": list("abcd"), "plot": ["p", "q", None, "s"]}
    pd.DataFrame(films).to_parquet(source / "films.parquet", index=False)
    for film in (10, 20, 40):
        put(source / "posters", **{f"{film}_dot_jpg": f"poster {film}"})
    np.save(source / "sound.npy", np.array([[3.0], [1.0], [4.0]], np.float32))
    np.save(source / "sound_ids.npy", np.array([30, 10, 40], np.int16))
    return source


def options(**changes):
    columns = ["user_id=uid", "item_id=film", "value=stars", "items.item_id=film", "items.title=name"]
    settings = {
        "interactions": "ratings.parquet",
        "items": "films.parquet",
        "columns": parse_columns([*columns, "items.description=plot"]),
        "split": "fold",
        "media": {"image": "posters/{item_id}.jpg"},
        "features": {"audio": "sound.npy:sound_ids.npy"},
    }
    return TableOptions(**(settings | changes))


@pytest.mark.parametrize("ids", ["npy", "parquet"])
def test_whole_numbers_kept_as_floats_are_the_same_ids_everywhere(prepared, tmp_path, ids):
    for name in ("ratings", "films"):
        frame = pd.read_parquet(prepared / f"{name}.parquet").astype({"film": "float64"})
        frame.replace({"film": {20.0: 12345678901.0}}).to_parquet(prepared / f"{name}.parquet", index=False)
    named = np.array([30.0, 10.0, 12345678901.0])
    np.save(prepared / "sound_ids.npy", named)
    pd.DataFrame({"item_id": named}).to_parquet(prepared / "sound_ids.parquet")
    done = convert_table(prepared, tmp_path / "out", options(features={"audio": f"sound.npy:sound_ids.{ids}"}))
    written = pd.read_parquet(tmp_path / "out/features/audio.ids.parquet")["item_id"].tolist()
    assert written == ["30", "10", "12345678901"] and done.counts["features_audio"] == 3
    assert (tmp_path / "out/media/posters/10.jpg").is_file()  # the path is made of the id


def test_table_with_split_media_and_vectors(prepared, tmp_path):
    done = convert_table(prepared, tmp_path / "out", options(catalogue="events"))
    log, items = read(tmp_path / "out", "interactions"), read(tmp_path / "out", "items")
    assert log["split"].tolist() == ["train", "valid", "train", "test"]
    assert list(log.columns) == ["user_id", "item_id", "value", "split"]
    assert items["item_id"].tolist() == ["10", "20", "30"]
    assert items["image"].tolist()[:2] == ["posters/10.jpg", "posters/20.jpg"] and pd.isna(items["image"][2])
    assert (tmp_path / "out/media/posters/20.jpg").read_text() == "poster 20"
    assert not (tmp_path / "out/media/posters/40.jpg").exists()
    assert np.load(tmp_path / "out/features/audio.npy").ravel().tolist() == [3, 1]
    assert pd.read_parquet(tmp_path / "out/features/audio.ids.parquet")["item_id"].tolist() == ["30", "10"]
    assert done.left_out == {
        "interactions: rows outside the split fold": 1,
        "items: without an event in the converted log": 1,
        "image: files that do not exist": 1,
        "features audio: rows of items not in the catalogue": 1,
    }
    dataset = ingest(tmp_path / "out", tmp_path / "in")
    assert dataset.report["quarantine_lines"] == 0
    assert dataset.items["description"].tolist() == ["", "p", "q", ""]


def test_table_keeps_the_whole_catalogue_by_default(prepared, tmp_path):
    done = convert_table(prepared, tmp_path / "out", options(media_mode="link"))
    assert done.counts["items"] == 4 and done.counts["features_audio"] == 3
    poster = tmp_path / "out/media/posters/10.jpg"
    assert poster.samefile(prepared / "posters/10.jpg")


def test_table_splits_can_be_swapped(prepared, tmp_path):
    convert_table(prepared, tmp_path / "out", options(split_codes={"train": "0", "valid": "2", "test": "1"}))
    assert read(tmp_path / "out", "interactions")["split"].tolist() == ["train", "test", "train", "valid"]


def test_table_without_a_catalogue_makes_one_from_log_and_vectors(tmp_path):
    source = put(tmp_path / "videos")
    log = {"user_id": [0, 0, 1], "item_id": [2, 0, 2], "split": [0, 2, 0]}
    pd.DataFrame(log).to_parquet(source / "interactions.parquet", index=False)
    np.save(source / "image_feat.npy", np.eye(12, dtype=np.float16))
    made = TableOptions(split="split", features={"image": "image_feat.npy"})
    convert_table(source, tmp_path / "all", made)
    assert read(tmp_path / "all", "items")["item_id"].tolist() == [str(row) for row in range(12)]
    assert read(tmp_path / "all", "interactions")["split"].tolist() == ["train", "test", "train"]


def test_csv_log_keeps_ids_as_text(tmp_path):
    source = put(
        tmp_path / "shop",
        log_dot_csv='who;what;when;how\n007;a;2024-01-01T00:00:00Z;view\n7;"b;c";2024-01-02;purchase\n',
    )
    columns = parse_columns(["user_id=who", "item_id=what", "timestamp=when", "event=how"])
    convert_table(source, tmp_path / "out", TableOptions(interactions="log.csv", columns=columns, delimiter=";"))
    log = read(tmp_path / "out", "interactions")
    assert log["user_id"].tolist() == ["007", "7"] and log["item_id"].tolist() == ["a", "b;c"]
    dataset = ingest(tmp_path / "out", tmp_path / "in")
    assert sorted(dataset.events["timestamp"]) == [1_704_067_200, 1_704_153_600]


def test_media_never_leave_the_source(tmp_path):
    source = put(tmp_path / "shop")
    put(tmp_path, secret="secret")
    pd.DataFrame({"user_id": ["u"] * 2, "item_id": ["a", "b"]}).to_parquet(source / "interactions.parquet")
    catalogue = {"item_id": ["a", "b"], "image": ["../secret", str(tmp_path / "secret")]}
    pd.DataFrame(catalogue).to_parquet(source / "items.parquet")
    done = convert_table(source, tmp_path / "out", TableOptions(items="items.parquet"))
    assert done.left_out == {"image: paths that lead out of the source folder": 2}
    assert not (tmp_path / "out/media").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "week"}, "must have the column 'week'"),
        ({"items": "absent.parquet"}, "must exist"),
        ({"interactions": "ratings.xlsx"}, "must be a .parquet, .csv or .tsv"),
        ({"columns": {}}, "Map it with user_id=THEIR_NAME"),
        ({"columns": {"interactions": {"value": "points"}}}, r"must have \['points'\]"),
        ({"features": {"audio": "sound.npy:posters"}}, "must be a .npy array"),
        ({"features": {"smell": "sound.npy"}}, "the modality must be among"),
        ({"media": {"image": "posters/{asin}.jpg"}}, "columns of the catalogue"),
    ],
)
def test_wrong_arguments_say_what_to_do(prepared, tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        convert_table(prepared, tmp_path / "out", options(**changes))


def test_wrong_folders(tmp_path):
    with pytest.raises(DatasetError, match="must be a folder"):
        convert_movielens(tmp_path / "absent", tmp_path / "out")
    put(tmp_path / "empty")
    with pytest.raises(DatasetError, match=r"must hold ratings\.csv"):
        convert_movielens(tmp_path / "empty", tmp_path / "out")
    put(tmp_path / "full", something="x")
    with pytest.raises(DatasetError, match="empty or new"):
        convert_mmrec(tmp_path / "empty", tmp_path / "full")


def test_column_arguments_are_checked():
    with pytest.raises(DatasetError, match="name=value"):
        parse_columns(["value"])
    with pytest.raises(DatasetError, match="the table must be among"):
        parse_columns(["films.title=name"])
