"""Putting a release together: the models of ids, the models of raw content, warm-up records, configs, manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ranking.pruning import prune_ranker
from ranking.stored_rows import Precision
from serving.client.page_request import words_of
from serving.client.recommend_requests import warm_up_requests
from serving.export.content_search import ContentSearchModule, content_search_requests
from serving.export.explain import EXPLAIN, SHOWN, explain_requests
from serving.export.graphs_again import TRACED_FROM, GraphsAgain
from serving.export.item_encoder import ItemEncoderModule
from serving.export.ranking import RankingModule
from serving.export.raw_models_again import ItemEncoderAgain, SearchAgain
from serving.export.raw_requests import item_encoder_requests, search_requests
from serving.export.recommend import RecommendModule, RecommendSettings
from serving.export.retrieval import RetrievalModule
from serving.export.score_reference import ReferenceBeside
from serving.export.search import SearchModule
from serving.graphs.request_history import ServingTables
from serving.index.index import CandidateIndex, ExactIndex
from serving.releases.gc import folder_bytes
from serving.releases.manifest import read_release
from serving.releases.models_config import ModelEntry, write_models_config, write_monitoring_config
from serving.releases.release import Release, publish
from serving.server.servable import Servable
from serving.server.warmup import write_warmup

RETRIEVAL, RETRIEVAL_SCANN, RANKING = "retrieval", "retrieval_scann", "ranking"
RECOMMEND = "recommend"
ITEM_ENCODER, SEARCH, CONTENT_SEARCH = "item_encoder", "search", "content_search"
MODELS = (RETRIEVAL, RETRIEVAL_SCANN, RANKING, RECOMMEND, ITEM_ENCODER, SEARCH, CONTENT_SEARCH)
Models = dict[str, tuple[Callable[[], Any], list[dict[str, np.ndarray]]]]
"""What makes each model, and the requests that warm it."""
REHEARSED = "rehearsed"
"""Folder of a model that is written to be loaded and removed, among those that are released."""
WARM_UP_SIZES = (1, 8)
"""Batch sizes that the records warm; a graph has no static shapes, so others run at the same speed."""


def export_release(
    releases: str | Path,
    version: int,
    *,
    tables: ServingTables,
    user_tower: Any,
    index: CandidateIndex,
    approximate_index: CandidateIndex | None,
    ranker: Any = None,
    item_encoder: ItemEncoderModule | ItemEncoderAgain | None = None,
    search: SearchModule | SearchAgain | None = None,
    content_search: ContentSearchModule | None = None,
    linear_history: np.ndarray | None = None,
    recommend: RecommendSettings | None = None,
    ranked: Callable[[], tuple[Any, RecommendSettings | None]] | None = None,
    precision: Precision = "float32",
    prune: float = 0.0,
    k: int = 100,
    counts: Mapping[str, int] | None = None,
    details: dict[str, Any] | None = None,
    observe: Callable[[Servable], Any] | None = None,
    graphs: GraphsAgain | None = None,
    say: Callable[[str], None] | None = None,
) -> Release:
    """Writes `<releases>/<version>/`, whole or not at all. The same inputs give the same files and fingerprint.

    `models.config` names the models that the stock TF Serving image can load, whose operations are TensorFlow's own and
    tensorflow-text's; `models_scann.config` adds `retrieval_scann` for a server that has ScaNN's operations.

    Args:
        releases: the folder of releases. version: a number not yet published.
        tables: see `ServingTables`.
        user_tower, index, approximate_index: see `RetrievalModule`; without the approximate index, `retrieval_scann`
            is left out.
        ranker: see `RankingModule`.
        item_encoder, search, content_search: the models of raw content; left out where None.
        linear_history: of an ensemble, see `RetrievalModule`.
        recommend: of the model that does retrieval, ranking and re-ranking in one call; left out where None, and then
            `ranking` knows no context either.
        ranked: returns ranker and recommend, in the place of these two; asked once every model that needs neither is written,
            so that a job may still be training them.
        precision: how tables and weights of retrieval and ranking are kept, see `ranking.stored_rows`; an exact index is
            stored anew in it, a partitioned one and ScaNN's are compact already. The models of raw content come as they are
            made.
        prune: share of the ranker's hidden units that is left out, see `ranking.pruning`; needs a `RankingServingForm`.
        k: candidates a warm-up request asks for and ranks.
        counts, details: for the manifest; keep seconds and dates out of `details` if two runs' manifests are to be
            equal. `ranked` may fill them.
        observe: called with `recommend` as it was written, loaded and warm.
        graphs: what writes the models, where an earlier release may lend their graphs; all are traced where it is None.
        say: receives one line a model.

    Raises:
        ReleaseError: the version exists already. ValueError: tables, tower and index do not belong together.
    """
    say, graphs, details = say or (lambda line: None), graphs or GraphsAgain(), {} if details is None else details
    if precision != "float32" and isinstance(index, ExactIndex):
        index = ExactIndex(index.embeddings(np.arange(index.item_rows)).numpy(), precision)
    facts = {"users": len(tables.profile) - 1, "items": index.item_rows - 1, **(counts or {})}
    retrieval = retrieval_requests(tables, k)
    # A model is made when its turn comes: the weights of no more than two stand in memory together.
    models: Models = {
        RETRIEVAL: (lambda: RetrievalModule(tables, user_tower, index, linear_history, precision=precision), retrieval)
    }
    if approximate_index is not None:
        models[RETRIEVAL_SCANN] = (
            lambda: RetrievalModule(tables, user_tower, approximate_index, linear_history, precision=precision),
            retrieval,
        )
    if item_encoder is not None:
        widths = {name: item_encoder.widths[name] for name in item_encoder.vector_inputs}
        models[ITEM_ENCODER] = (lambda: item_encoder, item_encoder_requests(WARM_UP_SIZES, widths))
    if search is not None:
        models[SEARCH] = (lambda: search, search_requests(WARM_UP_SIZES, k))
    if content_search is not None:
        models[CONTENT_SEARCH] = (lambda: content_search, [])

    def ranked_models() -> tuple[Models, RecommendSettings | None]:
        form, settings = (ranker, recommend) if ranked is None else ranked()
        form = prune_ranker(form, prune, tables.history) if prune else form
        words = {} if settings is None else settings.facts.context
        found: Models = {}
        if settings is not None:
            length, most = tables.history.shape[1], max(WARM_UP_SIZES)
            ids = (_some_ids(tables.user_ids, most), _some_ids(tables.item_ids, most * length))
            found[RECOMMEND] = (
                lambda: RecommendModule(tables, user_tower, index, form, settings, linear_history, precision),
                warm_up_requests(WARM_UP_SIZES, *ids, length, settings.k, _some_words(tables)),
            )
        found[RANKING] = (lambda: RankingModule(tables, form, precision, words), ranking_requests(tables, k))
        return found, settings

    with publish(Path(releases), version, counts=facts, details=details) as staging:

        def write(name: str, make: Callable[[], Any], requests: list[dict[str, np.ndarray]]) -> None:
            start = time.perf_counter()
            folder = staging / name / str(version)
            module = make()
            graphs.write(name, module, folder)
            if requests:
                write_warmup(folder, name, requests)
            if isinstance(module, ContentSearchModule):
                for signature, asked in content_search_requests(module.widths, WARM_UP_SIZES, k).items():
                    write_warmup(folder, name, asked, signature, append=True)
            if isinstance(module, RankingModule) and module.explain is not None:
                somebody, shown = _some_ids(tables.user_ids, 1)[0], _some_ids(tables.item_ids, max(SHOWN))
                asked = explain_requests(somebody, shown, _some_words(tables))
                write_warmup(folder, name, asked, EXPLAIN, append=True)
            del module
            say(f"{name}: {folder_bytes(folder) / 1e6:.1f} MB, {time.perf_counter() - start:.1f} s")

        for name, made in models.items():
            write(name, *made)
        with ReferenceBeside(staging / RECOMMEND / str(version), version) as reference:
            if ranked is not None and graphs.previous is not None:
                reference.rehearse(graphs.previous, tables.user_ids, tables.item_ids, staging / REHEARSED)
            beside, settings = ranked_models()
            for name, made in beside.items():
                write(name, *made)
                if settings is not None and name == RECOMMEND:
                    # To load it and to ask it is no work for Python's interpreter, unlike to trace the next one.
                    reference.begin(staging, tables.user_ids, settings.k, settings.now)
            if graphs.digests:
                details[TRACED_FROM] = graphs.digests
            if (servable := reference.written()) is not None and observe is not None:
                observe(servable)
        names = [name for name in MODELS if name in {**models, **beside}]
        entries = {name: ModelEntry(name, versions=(version,), labels={"stable": version}) for name in names}
        stock = [entry for name, entry in entries.items() if name != RETRIEVAL_SCANN]
        write_models_config(staging / "models.config", stock)
        if RETRIEVAL_SCANN in entries:
            write_models_config(staging / "models_scann.config", list(entries.values()))
        write_monitoring_config(staging / "monitoring.config")
    return read_release(Path(releases) / str(version))


def _some_ids(path: Path, count: int) -> list[bytes]:
    """The first ids of a vocabulary, repeated where there are fewer."""
    with path.open("rb") as lines:
        next(lines, None)
        ids = [line.rstrip(b"\n") for _, line in zip(range(count), lines, strict=False)] or [b""]
    return [ids[place % len(ids)] for place in range(count)]


def _some_words(tables: ServingTables) -> list[bytes]:
    """A profile that a request may bring: the first word of every column."""
    known = {column: [word for word in words if word] for column, words in tables.profile_words.items()}
    return [one.encode() for one in words_of({column: words[0] for column, words in known.items() if words})]


def _strings(values: list[bytes], *shape: int) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def retrieval_requests(tables: ServingTables, k: int) -> list[dict[str, np.ndarray]]:
    """Warm-up requests at real shapes: stored history, given history with exclusions, and an unknown user with nothing but
    a profile."""
    length, words = tables.history.shape[1], _some_words(tables)
    requests = []
    for size in WARM_UP_SIZES:
        known = _strings(_some_ids(tables.user_ids, size), size)
        unknown = _strings([b""] * size, size)
        recent = _strings(_some_ids(tables.item_ids, size * length), size, length)
        nothing = _strings([], size, 0)
        for user, history, excluded, profile in (
            (known, nothing, nothing, nothing),
            (known, recent, recent, nothing),
            (unknown, nothing, nothing, _strings(words * size, size, len(words))),
        ):
            inputs = {"user_id": user, "recent_item_ids": history, "exclude_item_ids": excluded, "profile": profile}
            requests.append({**inputs, "k": np.array(k, np.int32)})
    return requests


def ranking_requests(tables: ServingTables, k: int) -> list[dict[str, np.ndarray]]:
    """Warm-up requests at real shapes: k candidates for known users with stored history, and for unknown ones with history
    and profile given."""
    length, words = tables.history.shape[1], _some_words(tables)
    requests = []
    for size in WARM_UP_SIZES:
        candidates = _strings(_some_ids(tables.item_ids, size * k), size, k)
        scores = np.tile(np.linspace(1, 0, k, dtype=np.float32), (size, 1))
        for users, width, said in ((_some_ids(tables.user_ids, size), 0, []), ([b""] * size, length, words)):
            recent = _strings(_some_ids(tables.item_ids, size * width), size, width)
            inputs = {"user_id": _strings(users, size), "recent_item_ids": recent, "candidate_ids": candidates}
            inputs |= {"context": _strings([], size, 0), "profile": _strings(said * size, size, len(said))}
            requests.append({**inputs, "retrieval_scores": scores, "timestamp": np.full(size, 1_700_000_000, np.int64)})
    return requests
