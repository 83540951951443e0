"""One loaded version of one model: a session on a SavedModel, reference counted so that a hot swap loses no request."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2, saved_model_pb2
from tensorflow.python.framework import op_def_registry
from tensorflow.python.saved_model import loader_impl

from serving.status import CODES, ServingError, failed_precondition, not_found
from serving.tensors import to_array

SERVE_TAG = "serve"
REQUEST_THREADS = config_pb2.ThreadPoolOptionProto(num_threads=max(4, os.cpu_count() or 1), global_name="requests")
"""Threads that all sessions share. TensorFlow's own pool has as many as there are cores: on one core, one long request
would hold up every other."""

logger = logging.getLogger(__name__)


def _missing_operations(meta_graph: meta_graph_pb2.MetaGraphDef) -> set[str]:
    library = meta_graph.graph_def.library
    functions = {function.signature.name for function in library.function}
    used = {node.op for node in meta_graph.graph_def.node}
    used.update(node.op for function in library.function for node in function.node_def)
    return {name for name in used - functions if op_def_registry.get(name) is None}


def graph_digest(folder: Path) -> str:
    """What tells the graph of a SavedModel from any other."""
    with (folder / "saved_model.pb").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def register_custom_operations(meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
    """Imports the packages whose operations a graph needs: `scann` for "Scann>...", `tensorflow_text` for the rest.

    Nothing is imported for a graph of core operations, so a release made for the stock server is checked as such a
    server sees it.

    Raises:
        ServingError: FAILED_PRECONDITION when operations stay unknown; a real server would refuse the graph too.
    """
    missing = _missing_operations(meta_graph)
    if any(name.startswith("Scann>") for name in missing):
        importlib.import_module("scann.scann_ops.py.scann_ops")
    if any(not name.startswith("Scann>") for name in missing):
        with contextlib.suppress(ImportError):
            importlib.import_module("tensorflow_text")
    missing = _missing_operations(meta_graph)
    if missing:
        raise failed_precondition(
            f"Op type not registered: {', '.join(sorted(missing))}; this server has no such operation"
        )


def read_meta_graph(folder: Path) -> meta_graph_pb2.MetaGraphDef:
    """Reads the "serve" graph of a SavedModel without loading it.

    Raises:
        ServingError: NOT_FOUND when there is no SavedModel or it has no such graph, FAILED_PRECONDITION when it cannot
            be parsed.
    """
    file = folder / "saved_model.pb"
    if not file.is_file():
        raise not_found(f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {folder}")
    saved_model = saved_model_pb2.SavedModel()
    try:
        saved_model.ParseFromString(file.read_bytes())
    except Exception as error:  # protobuf raises its own DecodeError class in each implementation
        raise failed_precondition(f"Cannot parse SavedModel at {folder}: {error}") from error
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == {SERVE_TAG}:
            return meta_graph
    raise not_found(f"Could not find meta graph def matching supplied tags: {{ {SERVE_TAG} }} at {folder}")


class Servable:
    """One version of one model, ready to answer.

    The session is TensorFlow 1's, the path TF Serving itself builds on: closing it frees the graph's resources, which a
    model loaded by `tf.saved_model.load` never does for ScaNN. Runs go to the runtime without the Python session's
    static shape check, which refuses requests that TF Serving answers, and without its error interpolation, which would
    put stack traces into replies.

    Args:
        name: model name.
        version: the version number.
        folder: the SavedModel, usually `<base path>/<version>`.

    Raises:
        ServingError: when the folder does not hold a SavedModel that this process can load.

    Example:
        servable = Servable("half_plus_two", 1, Path("models/half_plus_two/1"))
        servable.run({"x:0": np.array([1.0], np.float32)}, ["y:0"])
    """

    def __init__(self, name: str, version: int, folder: Path) -> None:
        self.name = name
        self.version = version
        self.folder = folder
        self._references = 0
        self._retired = False
        self._idle = threading.Condition()
        meta_graph = read_meta_graph(folder)
        self._graph, self._saver = graph_digest(folder), meta_graph.saver_def
        register_custom_operations(meta_graph)
        graph = tf.Graph()
        # Requests run beside each other; splitting one's small operations over threads costs more than it saves (a page of
        # `recommend` 13.7 ms of processor time, on one thread 9.1).
        config = tf.compat.v1.ConfigProto(
            allow_soft_placement=True, intra_op_parallelism_threads=1, session_inter_op_thread_pool=[REQUEST_THREADS]
        )
        # A second pass over a graph takes as long as the first, a third of the time to the first answer, and finds nothing.
        config.graph_options.rewrite_options.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        try:
            with graph.as_default():
                loader_impl.SavedModelLoader(str(folder)).load(self._session, [SERVE_TAG])
            self._session._extend_graph()
            graph.finalize()
            self.signatures: dict[str, meta_graph_pb2.SignatureDef] = dict(meta_graph.signature_def)
            self._endpoints = {
                info.name: graph.get_tensor_by_name(info.name)._as_tf_output()
                for signature in self.signatures.values()
                for info in (*signature.inputs.values(), *signature.outputs.values())
                if ":" in info.name  # the init operation is listed as a signature too, and has no tensor
            }
            self.defaults = {
                key: {alias: to_array(proto, alias) for alias, proto in signature.defaults.items()}
                for key, signature in self.signatures.items()
            }
        except ServingError:
            self._session.close()
            raise
        except tf.errors.OpError as error:
            self._session.close()
            raise ServingError(CODES.get(error.error_code, grpc.StatusCode.UNKNOWN), error.message) from error
        except Exception as error:  # whatever the graph importer raises becomes this version's status
            self._session.close()
            raise failed_precondition(
                f"Loading servable {{name: {name} version: {version}}} failed: {error}"
            ) from error

    def read_variables(self, folder: Path) -> None:
        """Take the variables of another SavedModel with this one's graph, vocabularies included, to the byte.

        To load a graph and to optimise it before its first answer takes a thousand times as long as an answer.

        Raises:
            ServingError: FAILED_PRECONDITION where its graph is another; then nothing has changed.
        """
        if graph_digest(folder) != self._graph:
            raise failed_precondition(f"{folder} has another graph than {self.folder}; load it")
        prefix = str(folder / "variables" / "variables")
        self._session.run(self._saver.restore_op_name, {self._saver.filename_tensor_name: prefix})
        self.folder = folder

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray]:
        """Runs the graph.

        Args:
            feeds: value of each fed tensor, by tensor name ("x:0").
            fetches: names of the tensors to compute.

        Raises:
            ServingError: with TensorFlow's code and message.
        """
        try:
            return self._session._call_tf_sessionrun(
                None,
                {self._endpoints[name]: value for name, value in feeds.items()},
                [self._endpoints[name] for name in fetches],
                [],
                None,
            )
        except tf.errors.OpError as error:
            raise ServingError(CODES.get(error.error_code, grpc.StatusCode.UNKNOWN), error.message) from None

    @contextlib.contextmanager
    def use(self) -> Iterator[Servable]:
        """Releases a reference taken by `acquire` when the block ends."""
        try:
            yield self
        finally:
            with self._idle:
                self._references -= 1
                self._idle.notify_all()

    def acquire(self) -> bool:
        """Takes a reference; false when the version is already on its way out."""
        with self._idle:
            if self._retired:
                return False
            self._references += 1
            return True

    def retire(self, timeout: float | None = None) -> bool:
        """Refuses new requests, waits for the last running one, then closes the session.

        Args:
            timeout: seconds to wait; None waits for as long as requests run.

        Returns:
            Whether the session was closed; false when requests still ran after `timeout`.
        """
        with self._idle:
            self._retired = True
            drained = self._idle.wait_for(lambda: self._references == 0, timeout)
        if not drained:
            logger.warning("%s version %d still answers %d requests", self.name, self.version, self._references)
            return False
        self._session.close()
        self._endpoints = {}
        del self._session
        gc.collect()  # graph objects point at each other; without this a large model outlives its version
        return True
