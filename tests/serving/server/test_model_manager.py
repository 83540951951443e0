"""Loading, swapping and unloading versions while requests run."""

from __future__ import annotations

import functools
import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import model_management_pb2, model_pb2, model_service_pb2_grpc

from serving.client.model_client import ModelClient
from serving.local import LocalServer
from serving.releases.models_config import (
    ModelEntry,
    model_server_config,
    read_models_config,
    read_monitoring_config,
    write_batching_parameters,
    write_models_config,
    write_monitoring_config,
)
from serving.server.model_manager import ModelManager
from serving.server.servable import Servable
from serving.server.warmup import WARMUP_FILE, read_warmup, run_warmup, write_warmup
from serving.status import ServingError
from tests.serving.models import copy_version

X = np.array([1.0, 2.0, 5.0], np.float32)
NAME = "half_plus_two"


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def store(model_store: Path, tmp_path: Path) -> Path:
    """A folder of its own with version 1 of half_plus_two and a config that serves the newest."""
    (tmp_path / NAME).mkdir()
    copy_version(model_store / NAME / "1", tmp_path / NAME / "1")
    write_models_config(tmp_path / "models.config", [ModelEntry(NAME)])
    return tmp_path


@pytest.fixture
def manager(store: Path) -> Iterator[ModelManager]:
    """A manager that polls only when told to."""
    created = ModelManager(store / "models.config", poll_seconds=0)
    created.start()
    yield created
    created.stop()


def states(manager: ModelManager, name: str = NAME) -> dict[int, str]:
    names = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}
    found = manager.status(model_pb2.ModelSpec(name=name)).model_version_status
    return {entry.version: names[entry.state] for entry in found}


def answer(manager: ModelManager, spec: model_pb2.ModelSpec | None = None) -> float:
    with manager.use(spec or model_pb2.ModelSpec(name=NAME)) as servable:
        return float(servable.run({"x:0": np.zeros(1, np.float32)}, ["y:0"])[0][0])


def test_hot_swaps_under_load_lose_no_request(model_store: Path, store: Path):
    """Ten versions come and go while four clients ask without a pause: every request is answered, by a version that was
    there."""
    failures: list[Exception] = []
    seen: set[int] = set()
    counts = [0] * 4
    done = threading.Event()

    def ask(worker: int, client: ModelClient) -> None:
        while not done.is_set():
            try:
                outputs, version = client.predict_version(NAME, {"x": X})
                np.testing.assert_array_equal(outputs["y"], X / 2 + 1 + (version - 1) % 3 + 1)
                seen.add(version)
                counts[worker] += 1
            except Exception as error:
                failures.append(error)

    # Time enough that a machine busy with other tests is not taken for a lost request.
    with LocalServer(store / "models.config", poll_seconds=0.02) as server, ModelClient(server.target, deadline=60) as client:
        workers = [threading.Thread(target=ask, args=(worker, client)) for worker in range(4)]
        for worker in workers:
            worker.start()
        for version in range(2, 12):
            copy_version(model_store / NAME / str((version - 1) % 3 + 1), store / NAME / str(version))
            assert eventually(functools.partial(seen.__contains__, version))
        done.set()
        for worker in workers:
            worker.join()
        assert eventually(lambda: client.status(NAME)[10] == "END")
        assert client.status(NAME)[11] == "AVAILABLE"
    assert failures == []
    assert seen == set(range(1, 12))
    assert min(counts) > 10


def test_a_version_lives_until_its_last_request_is_done(model_store: Path, store: Path, manager: ModelManager):
    with manager.use(model_pb2.ModelSpec(name=NAME)) as old:
        copy_version(model_store / NAME / "2", store / NAME / "2")
        manager.poll()
        assert answer(manager) == 3.0  # the new version answers already
        assert states(manager) == {1: "UNLOADING", 2: "AVAILABLE"}
        assert old.run({"x:0": np.zeros(1, np.float32)}, ["y:0"])[0].tolist() == [2.0]
        with pytest.raises(ServingError, match="Servable not found for request: Specific"):
            answer(manager, model_pb2.ModelSpec(name=NAME, version={"value": 1}))
    assert eventually(lambda: states(manager) == {1: "END", 2: "AVAILABLE"})


def test_a_running_graph_survives_the_swap(model_store: Path, store: Path):
    """It runs until the swap is over; one core is enough for the others to be answered meanwhile."""
    over = store / "over"
    inputs = {"x": X, "file": np.array(str(over))}
    with LocalServer(store / "models.config", poll_seconds=0.02) as server, ModelClient(server.target) as client:
        found: list[tuple[dict[str, np.ndarray], int]] = []
        slow = threading.Thread(
            target=lambda: found.append(client.predict_version(NAME, inputs, signature_name="wait", deadline=60))
        )
        slow.start()
        try:
            assert eventually(lambda: server.manager._models[NAME].versions[1].servable._references == 1)
            copy_version(model_store / NAME / "2", store / NAME / "2")
            assert eventually(lambda: client.predict_version(NAME, {"x": X})[1] == 2)
            assert eventually(lambda: client.status(NAME)[1] == "UNLOADING") and slow.is_alive()
        finally:
            over.touch()
            slow.join()
        outputs, version = found[0]
        assert version == 1
        np.testing.assert_array_equal(outputs["y"], [2.5, 3.0, 4.5])


def test_an_unloaded_version_is_freed(model_store: Path, store: Path, manager: ModelManager):
    with manager.use(model_pb2.ModelSpec(name=NAME)) as servable:
        reference = weakref.ref(servable)
    del servable
    copy_version(model_store / NAME / "2", store / NAME / "2")
    manager.poll()
    assert eventually(lambda: states(manager)[1] == "END")
    assert eventually(lambda: gc.collect() >= 0 and reference() is None)


def test_a_broken_version_leaves_the_old_one_in_place(store: Path, manager: ModelManager):
    broken = store / NAME / "2"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"not a graph")
    manager.poll()
    assert answer(manager) == 2.0
    found = manager.status(model_pb2.ModelSpec(name=NAME, version={"value": 2})).model_version_status[0]
    assert found.status.error_code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert "Cannot parse SavedModel" in found.status.error_message
    shutil.rmtree(broken)
    manager.poll()
    assert states(manager) == {1: "AVAILABLE"}


def test_a_version_put_right_is_tried_again(model_store: Path, store: Path, manager: ModelManager):
    (store / NAME / "2").mkdir()
    manager.poll()
    assert states(manager) == {1: "AVAILABLE", 2: "END"}
    (store / NAME / "2").rmdir()
    manager.poll()
    copy_version(model_store / NAME / "2", store / NAME / "2")
    manager.poll()
    assert answer(manager) == 3.0


def test_start_refuses_a_model_without_versions(store: Path):
    shutil.rmtree(store / NAME / "1")
    with pytest.raises(ServingError, match=f"No versions of servable {NAME} found under base path"):
        LocalServer(store / "models.config").start()


def test_other_folders_are_no_versions(model_store: Path, store: Path, manager: ModelManager):
    for name in (".9.partial", "9-old", "x9", "٣"):
        (store / NAME / name).mkdir()
    (store / NAME / "8").write_text("a file")
    manager.poll()
    assert states(manager) == {1: "AVAILABLE"}


def test_policies(model_store: Path, store: Path, manager: ModelManager):
    for version in (2, 3):
        copy_version(model_store / NAME / str(version), store / NAME / str(version))
    config = read_models_config(store / "models.config")
    policy = config.model_config_list.config[0].model_version_policy
    policy.all.SetInParent()
    manager.apply(config)
    assert states(manager) == {version: "AVAILABLE" for version in (1, 2, 3)}
    policy.latest.num_versions = 2
    manager.apply(config)
    assert eventually(lambda: states(manager) == {1: "END", 2: "AVAILABLE", 3: "AVAILABLE"})
    policy.specific.versions.append(1)
    manager.apply(config)
    assert eventually(lambda: states(manager) == {1: "AVAILABLE", 2: "END", 3: "END"})
    assert answer(manager) == 2.0


def test_labels_move_only_to_loaded_versions(model_store: Path, store: Path, manager: ModelManager):
    copy_version(model_store / NAME / "2", store / NAME / "2")

    def config(versions: tuple[int, ...], **labels: int):
        return model_server_config([ModelEntry(NAME, versions=versions, labels=labels)])

    def labelled(label: str) -> float:
        return answer(manager, model_pb2.ModelSpec(name=NAME, version_label=label))

    manager.apply(config((1,), stable=1))
    assert labelled("stable") == 2.0
    with pytest.raises(ServingError) as caught:
        manager.apply(config((1, 2), stable=2))
    assert caught.value.code == grpc.StatusCode.FAILED_PRECONDITION
    words = f"Request to assign label to version 2 of model {NAME}, which is not currently available for inference"
    assert caught.value.message == words
    assert labelled("stable") == 2.0
    assert states(manager) == {1: "AVAILABLE", 2: "AVAILABLE"}  # it loads all the same
    manager.apply(config((1,), stable=1))
    manager.apply(config((1, 2), stable=1, canary=2))  # a new label may come with its version
    assert (labelled("stable"), labelled("canary")) == (2.0, 3.0)
    manager.apply(config((1, 2), stable=2))
    assert labelled("stable") == 3.0
    with pytest.raises(ServingError, match="Unrecognized servable version label: canary"):
        labelled("canary")


def test_reload_over_grpc_adds_and_removes_models(model_store: Path, store: Path):
    with LocalServer(store / "models.config", poll_seconds=0) as server, ModelClient(server.target) as client:
        shutil.copytree(model_store / "lookup", store / "lookup")
        stub = model_service_pb2_grpc.ModelServiceStub(grpc.insecure_channel(server.target))
        request = model_management_pb2.ReloadConfigRequest(config=model_server_config([ModelEntry("lookup")]))
        assert stub.HandleReloadConfigRequest(request, timeout=30).status.error_code == 0
        assert client.predict("lookup", {"ids": np.array([["drone"]]), "k": np.array(1, np.int32)})["rows"] == [[4]]
        with pytest.raises(ServingError, match=rf"Servable not found for request: Latest\({NAME}\)"):
            client.predict(NAME, {"x": X})
        twice = model_server_config([ModelEntry("lookup"), ModelEntry("lookup")])
        with pytest.raises(grpc.RpcError) as caught:
            stub.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(config=twice), timeout=30)
        assert caught.value.details() == "Illegal to list model lookup multiple times in config list"
        absent = model_server_config([ModelEntry("lookup"), ModelEntry("absent")])
        with pytest.raises(grpc.RpcError) as caught:
            stub.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(config=absent), timeout=30)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert client.status("lookup") == {1: "AVAILABLE"}


def test_an_edited_config_file_is_put_in_force(model_store: Path, store: Path):
    copy_version(model_store / NAME / "2", store / NAME / "2")
    config = store / "models.config"
    with LocalServer(config, poll_seconds=0.02, watch_config=True) as server, ModelClient(server.target) as client:
        assert client.predict_version(NAME, {"x": X})[1] == 2
        write_models_config(config, [ModelEntry(NAME, versions=(1,))])  # a rollback
        assert eventually(lambda: client.predict_version(NAME, {"x": X})[1] == 1)
        config.write_text("nonsense {")
        time.sleep(0.1)
        assert client.predict_version(NAME, {"x": X})[1] == 1


def test_a_label_follows_once_its_version_is_loaded(model_store: Path, store: Path):
    """Two edits between two looks at the file: the server never saw the version without its label."""
    copy_version(model_store / NAME / "2", store / NAME / "2")
    config = write_models_config(store / "models.config", [ModelEntry(NAME, versions=(1,), labels={"stable": 1})])
    with LocalServer(config, poll_seconds=0.02, watch_config=True) as server, ModelClient(server.target) as client:
        write_models_config(config, [ModelEntry(NAME, versions=(1, 2), labels={"stable": 2})])
        assert eventually(lambda: client.predict_version(NAME, {"x": X}, label="stable")[1] == 2)


def test_another_release_takes_over(model_store: Path, store: Path, tmp_path: Path):
    """The same version number in another folder is another model: it is loaded before the first is let go."""
    other = tmp_path / "other"
    (other / NAME).mkdir(parents=True)
    copy_version(model_store / NAME / "3", other / NAME / "1")
    write_models_config(other / "models.config", [ModelEntry(NAME)])
    with LocalServer(store / "models.config", poll_seconds=0) as server, ModelClient(server.target) as client:
        np.testing.assert_array_equal(client.predict(NAME, {"x": X})["y"], [2.5, 3.0, 4.5])
        server.manager.reload(other / "models.config")
        np.testing.assert_array_equal(client.predict(NAME, {"x": X})["y"], [4.5, 5.0, 6.5])
        assert client.status(NAME) == {1: "AVAILABLE"}


# ---- warm-up


def test_warmup_runs_before_the_version_is_announced(
    model_store: Path, store: Path, manager: ModelManager, monkeypatch: pytest.MonkeyPatch
):
    version = copy_version(model_store / NAME / "2", store / "aside")
    write_warmup(version, NAME, [{"x": X}, {"x": X[:1]}])
    write_warmup(version, NAME, [{"x": X, "n": np.array(3, np.int32)}], "spin", append=True)
    runs: list[int] = []
    run = Servable.run

    def spy(self: Servable, feeds: dict[str, np.ndarray], fetches: list[str]) -> list[np.ndarray]:
        runs.append(feeds["x:0"].size)
        assert states(manager) == {1: "AVAILABLE", 2: "LOADING"}
        return run(self, feeds, fetches)

    monkeypatch.setattr(Servable, "run", spy)
    copy_version(version, store / NAME / "2")
    manager.poll()
    assert runs == [3, 1, 3]
    assert states(manager)[2] == "AVAILABLE"


@pytest.mark.parametrize("damage", ["wrong type", "truncated"])
def test_a_warmup_that_fails_fails_the_version(model_store: Path, store: Path, manager: ModelManager, damage: str):
    version = copy_version(model_store / NAME / "2", store / "aside")
    file = write_warmup(version, NAME, [{"x": X if damage == "truncated" else np.array([1, 2])}])
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-3])
    copy_version(version, store / NAME / "2")
    manager.poll()
    assert states(manager) == {1: "AVAILABLE", 2: "END"}
    found = manager.status(model_pb2.ModelSpec(name=NAME, version={"value": 2})).model_version_status[0]
    words = "Expects arg[0] to be float but int64" if damage == "wrong type" else "Failed to read warmup record"
    assert words in found.status.error_message
    assert answer(manager) == 2.0


def test_warmup_file(tmp_path: Path):
    with pytest.raises(ValueError, match="need 1 to 1000 warm-up records, got 0"):
        write_warmup(tmp_path, "m", [])
    file = write_warmup(tmp_path, "m", [{"x": X, "id": np.array(["é"])}])
    assert file == tmp_path / WARMUP_FILE
    first = file.read_bytes()
    (log,) = read_warmup(tmp_path)
    assert log.predict_log.request.model_spec.name == "m"
    assert log.predict_log.request.inputs["x"].float_val == [1.0, 2.0, 5.0]
    assert write_warmup(tmp_path, "m", [{"id": np.array(["é"]), "x": X}]).read_bytes() == first  # same bytes
    several = write_warmup(tmp_path, "m", [{f"input_{n}": X for n in range(9)}]).read_bytes()
    appended = write_warmup(tmp_path, "m", [{"x": X}], "other", append=True).read_bytes()
    assert appended.startswith(several), "records that were there already are written as they were"


def test_warmup_count(model_store: Path):
    servable = Servable("lookup", 1, model_store / "lookup" / "1")
    assert run_warmup(servable) == 1
    assert servable.retire(timeout=1)


# ---- the text files


def test_config_files(tmp_path: Path):
    entries = [
        ModelEntry("retrieval", versions=(7, 8), labels={"stable": 7, "canary": 8}),
        ModelEntry("a", folder="b/c"),
    ]
    path = write_models_config(tmp_path / "models.config", entries)
    assert read_models_config(path) == model_server_config(entries)
    assert 'base_path: "/models/b/c"' in path.read_text()
    with pytest.raises(ValueError, match="labels: 'stable' names version 9, which is not in versions"):
        ModelEntry("m", versions=(1,), labels={"stable": 9})
    with pytest.raises(ValueError, match="name: must be free of"):
        ModelEntry("a/b")
    batching = write_batching_parameters(tmp_path / "batching.txt", threads=2, timeout_milliseconds=2)
    assert "num_batch_threads { value: 2 }\n" in batching.read_text()
    assert "batch_timeout_micros { value: 2000 }\n" in batching.read_text()
    monitoring = write_monitoring_config(tmp_path / "monitoring.config")
    assert read_monitoring_config(monitoring) == "/monitoring/prometheus/metrics"
    monitoring.write_text('prometheus_config: { enable: false, path: "/x" }')
    assert read_monitoring_config(monitoring) is None
    for text in ("", "nonsense", "prometheus_config { enable: maybe }"):
        monitoring.write_text(text)
        with pytest.raises(ValueError, match="expected prometheus_config"):
            read_monitoring_config(monitoring)
    path.write_text("model_config_list {")
    with pytest.raises(ValueError, match="not a ModelServerConfig in text form"):
        read_models_config(path)
