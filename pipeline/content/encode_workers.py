"""Decoding in worker processes: bounded, in order, and safe from files that crash or hang a decoder."""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Pipe, wait
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.content.encode_plan import Batch
from pipeline.content.encode_worker import READY
from towers.encoder_card import EncoderCard

AHEAD_BYTES = 256 * 2**20
"""Decoded contents that may wait for the encoder: what bounds the memory, but for one batch that is always ahead."""
CHUNK = 8
"""Files given to a worker at once: enough to hide the way there and back, few enough to share a batch among workers."""
FILE_SECONDS = 60.0
"""Longer than any decoder needs within its own bounds; beyond it the worker is killed and the file set aside."""
WORKER = "pipeline.content.encode_worker"
ROOT = Path(__file__).resolve().parents[2]

START_SECONDS = 60.0
ATTEMPTS = 2
"""A worker may die of something else than its file (the kernel short of memory): the file is tried again, alone."""

Decoded = list[np.ndarray | str]
"""Of B contents: the array, or the reason why there is none."""


class DecodeWorker:
    """One worker process: started when first needed, and again after a file ended it.

    Args:
        seconds: time allowed for one file. module: what the process runs.
    """

    def __init__(self, seconds: float = FILE_SECONDS, module: str = WORKER) -> None:
        self.seconds, self.module = seconds, module
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Any = None
        self._lock = threading.Lock()
        self._stopped = False

    def decode(self, requests: Sequence[dict[str, Any]]) -> list[bytes]:
        """The answers of `pipeline.content.encode_worker` by file; one that ends the worker or hangs it is answered here."""
        answers: list[bytes] = []
        attempt = 1
        while len(answers) < len(requests):
            waiting = requests[len(answers) :]
            try:
                self._start()
                self._connection.send_bytes(json.dumps(waiting if attempt == 1 else waiting[:1]).encode())
                for _ in waiting if attempt == 1 else waiting[:1]:
                    if not wait([self._connection], self.seconds):
                        answers.append(f"Etook too long: over {self.seconds:g} s to decode".encode())
                        self._end()
                        attempt = 1
                        break
                    answers.append(self._connection.recv_bytes())
                    attempt = 1
            except (EOFError, OSError):  # the file in the works is the one after the last answer
                cause = self._end()
                if attempt == ATTEMPTS:
                    answers.append(f"Ecrashed the decoder {ATTEMPTS} times ({cause})".encode())
                attempt = attempt % ATTEMPTS + 1
        return answers

    def stop(self) -> None:
        """Kill the process for good; a `decode` under way in another thread raises."""
        self._stopped = True
        self._end(grace=0.0)

    def _start(self) -> None:
        with self._lock:
            if self._stopped:
                raise RuntimeError("decoding was stopped")
            if self._process is not None:
                return
            self._connection, theirs = Pipe()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", self.module, str(theirs.fileno())],
                    cwd=ROOT,
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                )
        with suppress(EOFError, OSError):
            if wait([self._connection], START_SECONDS) and self._connection.recv_bytes() == READY:
                return
        if not self._stopped:
            self._process.kill()
            said = (self._process.stderr.read() if self._process.stderr else b"").decode(errors="replace").strip()
            self._end()
            raise RuntimeError(f"the decoding process does not start: {said[-2000:] or 'no answer'}")

    def _end(self, grace: float = 0.2) -> str:
        """Kill the process and say what it had died of, if it had or does within the grace."""
        with self._lock:
            if self._process is None:
                return "stopped"
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
            code = self._process.poll()
            self._process.kill()
            self._process.wait()
            self._connection.close()
            if self._process.stderr:
                self._process.stderr.close()
            self._process = None
        if code is None:
            return "killed"
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


class DecodePool:
    """The workers, and the batches that they decode ahead of the encoder.

    One process is started at first, another each time the encoder has to wait for a batch, up to `workers`: most
    encoders are slower than one process decodes, and every process more would take its start and memory from them.

    Args:
        media: the folder that paths are relative to.
        workers: processes at most. seconds: time allowed for one file. module: what the processes run.

    Example:
        >>> with DecodePool(Path("media")) as pool:
        ...     list(pool.decode([]))
        []
    """

    def __init__(
        self, media: Path, workers: int = 2, seconds: float = FILE_SECONDS, module: str = WORKER
    ) -> None:
        self.media, self.workers, self.seconds, self.module = media.resolve(), workers, seconds, module
        self._tasks: queue.SimpleQueue[tuple[Future[Decoded], Batch, range] | None] = queue.SimpleQueue()
        self._running: list[tuple[threading.Thread, DecodeWorker]] = []
        self._waited = False

    def decode(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Decoded]]:
        """Batches with their decoded contents, in order, about `AHEAD_BYTES` of them ahead; texts come without any."""
        pending: deque[tuple[Batch, list[Future[Decoded]]]] = deque()
        waiting = 0
        for batch in batches:
            pending.append((batch, self._submit(batch)))
            waiting += decoded_bytes(batch)
            while len(pending) > 1 and waiting > AHEAD_BYTES:
                waiting -= decoded_bytes(pending[0][0])
                yield self._finished(*pending.popleft())
        while pending:
            yield self._finished(*pending.popleft())

    def start(self) -> None:
        """Begin the first process before there is anything to decode."""
        if not self._running:
            self._add_worker()

    def close(self) -> None:
        """Stop at once, whatever is under way."""
        with suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _, worker in self._running:
            self._tasks.put(None)
            worker.stop()
        for thread, _ in self._running:
            thread.join()
        self._running.clear()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def processes(self) -> int:
        """How many were started."""
        return len(self._running)

    def _submit(self, batch: Batch) -> list[Future[Decoded]]:
        if batch.card.modality == "text":
            return []
        self.start()
        futures = []
        for start in range(0, len(batch.keys), CHUNK):
            futures.append(Future[Decoded]())
            self._tasks.put((futures[-1], batch, range(start, min(start + CHUNK, len(batch.keys)))))
        return futures

    def _finished(self, batch: Batch, futures: list[Future[Decoded]]) -> tuple[Batch, Decoded]:
        waits = not all(future.done() for future in futures)
        if waits and self._waited and len(self._running) < self.workers:
            self._add_worker()
        self._waited |= waits  # the first batch is always waited for
        return batch, [value for future in futures for value in future.result()]

    def _add_worker(self) -> None:
        worker = DecodeWorker(self.seconds, self.module)
        thread = threading.Thread(target=self._work, args=(worker,), name=f"decode-{len(self._running)}", daemon=True)
        self._running.append((thread, worker))
        thread.start()

    def _work(self, worker: DecodeWorker) -> None:
        while (task := self._tasks.get()) is not None:
            future, batch, positions = task
            try:
                future.set_result(self._decode(worker, batch, positions))
            except BaseException as error:  # whoever waits for the batch is the one to raise it
                future.set_exception(error)

    def _decode(self, worker: DecodeWorker, batch: Batch, positions: range) -> Decoded:
        asked, shape, dtype = decoder_arguments(batch.card)
        requests = [
            {
                "media": str(self.media),
                "name": batch.contents[position].value,
                "kind": batch.contents[position].kind,
                "arguments": asked,
                "key": batch.keys[position].hex(),
                "fingerprint": batch.card.fingerprint,
                "preprocessing": batch.preprocessing[batch.contents[position].kind],
            }
            for position in positions
        ]
        return [
            np.frombuffer(answer, dtype, offset=1).reshape(shape) if answer[:1] == b"A" else answer[1:].decode()
            for answer in worker.decode(requests)
        ]


def decoded_bytes(batch: Batch) -> int:
    """Memory that a batch takes once it is decoded; texts need no decoding."""
    if batch.card.modality == "text":
        return 0
    _, shape, dtype = decoder_arguments(batch.card)
    return len(batch.keys) * math.prod(shape) * np.dtype(dtype).itemsize


def decoder_arguments(card: EncoderCard) -> tuple[list[int], tuple[int, ...], type]:
    """What a decoder is asked for beside the bytes, and the shape and type of what it returns.

    Example:
        >>> decoder_arguments(EncoderCard("signal:", "0" * 16, "image", 181, 96))
        ([96], (96, 96, 3), <class 'numpy.uint8'>)
    """
    if card.modality == "audio":
        return [card.size], (card.size,), np.float32
    picture = (card.size, card.size, 3)
    if card.modality == "video":
        return [card.frames, card.size], (card.frames, *picture), np.uint8
    return [card.size], picture, np.uint8
