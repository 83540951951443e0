"""Which versions of which models are loaded: configuration, polling, labels, status, and swaps that lose no request."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.releases.models_config import read_models_config, resolve_base_path
from serving.server.model_versions import Model, State, Version, aspired_versions
from serving.server.servable import Servable
from serving.server.warmup import run_warmup
from serving.status import ServingError, failed_precondition, invalid_argument, not_found

logger = logging.getLogger(__name__)


class ModelManager:
    """Loads and unloads versions; hands out the one a request asks for.

    A new version is loaded, and warmed up, before the old one is unloaded; a version that fails to load leaves the old
    one in place. An unloaded version's session lives until its last request is done.

    Args:
        models_config: the models.config file.
        poll_seconds: how often base paths are scanned for versions; 0 only on `reload`.
        watch_config: also re-read the file when it changes, as with --model_config_file_poll_wait_seconds.
    """

    def __init__(self, models_config: Path, *, poll_seconds: float = 1.0, watch_config: bool = False) -> None:
        self._file = Path(models_config)
        self._poll_seconds = poll_seconds
        self._watch_config = watch_config
        self._models: dict[str, Model] = {}
        self._lock = threading.Lock()  # guards _models and what hangs from it; never held while a model loads
        self._sync = threading.RLock()  # one change of configuration or versions at a time
        self._stop = threading.Event()
        self._poller: threading.Thread | None = None
        self._drains: list[threading.Thread] = []
        self._stamp: tuple[int, int] | None = None

    def start(self) -> None:
        """Loads what the configuration asks for, then polls.

        Raises:
            ValueError: the configuration cannot be read.
            ServingError: a model has no version that can be loaded.
        """
        self.reload()
        if self._poll_seconds > 0:
            self._poller = threading.Thread(target=self._poll_forever, name="model-poller", daemon=True)
            self._poller.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stops polling and closes every session once its requests are done, or after `timeout` seconds."""
        self._stop.set()
        if self._poller is not None:
            self._poller.join()
        with self._sync:
            for model in self._models.values():
                for version in model.versions.values():
                    self._unload(version)
            for thread in self._drains:
                thread.join(timeout)

    def reload(self, models_config: Path | None = None) -> None:
        """Reads the configuration again, or another one (another release), and applies it; returns when it is in
        force."""
        with self._sync:
            if models_config is not None:
                self._file = Path(models_config)
            stat = self._file.stat()
            self._stamp = (stat.st_mtime_ns, stat.st_size)
            self.apply(read_models_config(self._file))

    def apply(self, config: model_server_config_pb2.ModelServerConfig) -> None:
        """Puts a configuration in force: checks it whole, moves labels, loads, then unloads.

        Raises:
            ServingError: INVALID_ARGUMENT for a configuration that is refused (nothing changes then);
                FAILED_PRECONDITION where a label in use would move to a version that is not loaded (all labels stay
                then, while its versions load, so that the same configuration passes later); or the reason why a model
                ends up with no version that answers.
        """
        if config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        with self._sync:
            wanted, refusal = self._check(config)
            with self._lock:
                removed = [model for name, model in self._models.items() if name not in wanted]
                for name, model in wanted.items():
                    previous = self._models.get(name)
                    model.versions = previous.versions if previous is not None else {}
                    if refusal is not None:
                        model.labels = previous.labels if previous is not None else {}
                self._models = wanted
            self.poll()
            for model in removed:
                for version in model.versions.values():
                    self._unload(version)
            for name, model in wanted.items():
                if model.newest() is None:
                    errors = [version.error for version in model.versions.values() if version.error is not None]
                    raise (
                        errors[-1]
                        if errors
                        else not_found(f"No versions of servable {name} found under base path {model.base_path}")
                    )
            if refusal is not None:
                raise refusal

    def _check(
        self, config: model_server_config_pb2.ModelServerConfig
    ) -> tuple[dict[str, Model], ServingError | None]:
        wanted: dict[str, Model] = {}
        refusal = None
        for entry in config.model_config_list.config:
            platform = entry.model_platform or "tensorflow"
            if not entry.name or not entry.base_path:
                raise invalid_argument(
                    f"Expected every model to have a name and a base_path; got {str(entry).strip()!r}"
                )
            if entry.name in wanted:
                raise invalid_argument(f"Illegal to list model {entry.name} multiple times in config list")
            if platform != "tensorflow":
                raise invalid_argument(f"Model {entry.name} requests unsupported platform {platform}")
            previous = self._models.get(entry.name)
            for label, number in entry.version_labels.items():
                # A new label may name a version that is about to load; one in use must not come to point at nothing.
                moved = previous is not None and previous.labels.get(label, number) != number
                loaded = (
                    previous is not None and getattr(previous.versions.get(number), "state", None) == State.AVAILABLE
                )
                if moved and not loaded:
                    refusal = failed_precondition(
                        f"Request to assign label to version {number} of model {entry.name}, "
                        "which is not currently available for inference"
                    )
            base_path = resolve_base_path(entry.base_path, self._file.resolve().parent)
            wanted[entry.name] = Model(entry, base_path, labels=dict(entry.version_labels))
        return wanted, refusal

    def poll(self) -> None:
        """Looks for new and gone versions once: loads first, then unloads what is no longer asked for."""
        with self._sync:
            for name, model in list(self._models.items()):
                aspired = aspired_versions(model.config, model.base_path)
                for number, folder in sorted(aspired.items()):
                    version = model.versions.get(number)
                    gone = (
                        version is not None and version.state in (State.UNLOADING, State.END) and version.error is None
                    )
                    if version is None or version.folder != folder or gone:
                        self._load(name, model, number, folder)
                available = {number for number in aspired if model.versions[number].state == State.AVAILABLE}
                for number, version in list(model.versions.items()):
                    if number in aspired:
                        continue
                    if version.error is not None and not version.folder.exists():
                        with self._lock:
                            del model.versions[number]  # a failed version that is put back is tried again
                    elif available:  # never before something else answers
                        self._unload(version)

    def _load(self, name: str, model: Model, number: int, folder: Path) -> None:
        previous = model.versions.get(number)
        version = Version(folder, State.LOADING)
        keep_answering = previous is not None and previous.state == State.AVAILABLE
        if not keep_answering:
            with self._lock:
                model.versions[number] = version
        try:
            servable = Servable(name, number, folder)
            try:
                records = run_warmup(servable)
            except ServingError:
                servable.retire()
                raise
            logger.info(
                "Successfully loaded servable version {name: %s version: %d}, %d warm-up records", name, number, records
            )
            version.servable, version.state = servable, State.AVAILABLE
        except ServingError as error:
            logger.error("Loading servable {name: %s version: %d} failed: %s", name, number, error)
            version.state, version.error = State.END, error
        if keep_answering and version.error is not None:
            assert previous is not None
            previous.folder = (
                folder  # the replacement is broken: keep the old session, and do not try again every second
            )
            return
        with self._lock:
            model.versions[number] = version
        if keep_answering and previous is not None:
            self._unload(previous)

    def _unload(self, version: Version) -> None:
        with self._lock:
            servable, version.servable = version.servable, None
            if servable is None:
                return
            version.state = State.UNLOADING

        def drain() -> None:
            servable.retire()
            version.state = State.END

        thread = threading.Thread(target=drain, name=f"drain-{servable.name}-{servable.version}", daemon=True)
        thread.start()
        self._drains = [running for running in self._drains if running.is_alive()] + [thread]

    def _poll_forever(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                stat = self._file.stat() if self._watch_config else None
                if stat is not None and (stat.st_mtime_ns, stat.st_size) != self._stamp:
                    self.reload()
                else:
                    self.poll()
            except (ServingError, ValueError, OSError) as error:
                self._stamp = None  # as TF Serving does, try the file again: what it labels may be loaded by then
                logger.error("Polling failed, the loaded versions stay: %s", error)

    @contextlib.contextmanager
    def use(self, spec: model_pb2.ModelSpec) -> Iterator[Servable]:
        """The version a request asks for, kept alive for the length of the block.

        Raises:
            ServingError: NOT_FOUND "Servable not found for request: ...", INVALID_ARGUMENT for an unknown label or no
                name.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        with self._lock:
            model = self._models.get(spec.name)
            number = self._number(model, spec)
            if number is None:
                servable = model.newest() if model is not None else None
            else:
                version = model.versions.get(number) if model is not None else None
                servable = version.servable if version is not None and version.state == State.AVAILABLE else None
            # The reference is taken under the lock that `_unload` needs to take the servable away.
            if servable is None or not servable.acquire():
                wanted = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
                raise not_found(f"Servable not found for request: {wanted}")
        with servable.use():
            yield servable

    @staticmethod
    def _number(model: Model | None, spec: model_pb2.ModelSpec) -> int | None:
        choice = spec.WhichOneof("version_choice")
        if choice == "version":
            return spec.version.value
        if choice == "version_label":
            number = model.labels.get(spec.version_label) if model is not None else None
            if number is None:
                raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
            return number
        return None

    def status(self, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
        """State of each version of a model, or of one version."""
        response = get_model_status_pb2.GetModelStatusResponse()
        with self._lock:
            model = self._models.get(spec.name)
            versions = dict(model.versions) if model is not None else {}
            if not versions:
                raise not_found(f"Could not find any versions of model {spec.name}")
            number = self._number(model, spec)
        if number is not None and number not in versions:
            raise not_found(f"Could not find version {number} of model {spec.name}")
        for key in sorted(versions, reverse=True) if number is None else [number]:
            version = versions[key]
            entry = response.model_version_status.add(version=key, state=version.state)  # type: ignore[arg-type]
            code = version.error.code if version.error is not None else grpc.StatusCode.OK
            entry.status.error_code = code.value[0]
            entry.status.error_message = version.error.message if version.error is not None else ""
        return response

    @property
    def names(self) -> list[str]:
        """The models configured."""
        with self._lock:
            return list(self._models)

    def ready(self, name: str) -> bool:
        """Whether a model has a version that answers."""
        with self._lock:
            return name in self._models and self._models[name].newest() is not None
