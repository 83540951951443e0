"""A user tower trained where the events are: federated averaging over simulated devices, against central training.

    python benchmarks/federated.py --run runs/demo
    python benchmarks/federated.py --run runs/demo --quick

The items' side is the run's own and stays fixed; the user tower reads histories alone and starts untrained. Each user is a
client with the events of their training split. In a round, `--clients` of them, drawn at random, get the weights, pass
`--local-epochs` times over their events by gradient descent and answer with the change; the server averages the changes,
each by its events. Central training takes shuffled batches of all events, by Adam, with the same tower and loss. Both are
judged on validation after every few rounds and every epoch, and the best of each is asked the test split once: recall over
the full catalogue, seen items left out. Bytes are those of weights in float32, unpacked; the table of items, which every
client needs once, stands apart. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import numpy as np
import tensorflow as tf

from data.dataset import Dataset
from data.histories import Histories
from pipeline.metrics.examples import Requests, make_requests, positive_histories
from pipeline.metrics.metrics import mean_over_users, ndcg_at_k, recall_at_k
from pipeline.metrics.top_k import dot_product_scores, top_k
from pipeline.retrieval.federated import Server, Weights, bytes_of
from pipeline.retrieval.federated_client import UserTraining, clients_of
from pipeline.retrieval.queries import embed_queries
from towers.two_tower import TwoTower, load_two_tower


def make_training(run: Path, arguments: argparse.Namespace) -> UserTraining:
    """An untrained user tower beside the run's item vectors."""
    keras.utils.set_random_seed(arguments.seed)
    trained = load_two_tower(run / "retrieval" / "full")
    schema = dataclasses.replace(trained.schema, profile={})
    shape = {"user_id": False, "dropout": 0.0, "history": arguments.history, "seed": arguments.seed}
    config = dataclasses.replace(trained.config, **shape, temperature=1.0 / float(trained.scale))
    items = np.load(run / "retrieval" / "full" / "item_embeddings.npy")
    return UserTraining(TwoTower(schema, config), items, rate=arguments.rate, batch=arguments.batch)


def judge(training: UserTraining, weights: Weights, requests: Requests) -> dict[str, float]:
    """Figures of the tower with these weights."""
    training.install(weights)
    items = training.items.numpy()
    nothing = np.zeros((int(requests.users.max()) + 1, 0), np.int32)
    queries = embed_queries(training.two_tower, items, nothing, requests.users, requests.history)
    ranked, _ = top_k(dot_product_scores(queries, items), np.arange(len(queries)), requests.seen, 100)
    return {
        "recall@20": round(mean_over_users(recall_at_k(ranked, requests.relevant, 20)), 4),
        "recall@100": round(mean_over_users(recall_at_k(ranked, requests.relevant, 100)), 4),
        "ndcg@20": round(mean_over_users(ndcg_at_k(ranked, requests.relevant, 20)), 4),
    }


class Best:
    """The weights that validation likes best."""

    def __init__(self, training: UserTraining, requests: Requests, weights: Weights):
        self.training, self.requests = training, requests
        self.weights, self.at, self.figure = weights, 0, judge(training, weights, requests)["ndcg@20"]

    def show(self, weights: Weights, at: int) -> float:
        figure = judge(self.training, weights, self.requests)["ndcg@20"]
        if figure > self.figure:
            self.weights, self.at, self.figure = [np.array(part) for part in weights], at, figure
        return figure


def central(
    training: UserTraining, histories: Histories, start: Weights, best: Best, arguments: argparse.Namespace
) -> None:
    """Adam over shuffled batches of all events."""
    positions = np.arange(len(histories.items))
    history = histories.before(positions, training.two_tower.config.history_length)
    training.install(start)
    optimizer = keras.optimizers.Adam(arguments.central_rate)
    optimizer.build(training.variables)

    @tf.function(autograph=False)
    def step(target, history, weight):
        with tf.GradientTape() as tape:
            loss = training.loss(target, history, weight)
        values = [variable.value for variable in training.variables]
        gradients = tape.gradient(loss, values, unconnected_gradients="zero")
        optimizer.apply_gradients(zip(map(tf.convert_to_tensor, gradients), training.variables, strict=True))

    for epoch in range(arguments.epochs):
        order = np.random.default_rng([arguments.seed, epoch]).permutation(positions)
        for first in range(0, len(order) - 511, 512):
            chosen = order[first : first + 512]
            step(tf.constant(histories.items[chosen]), tf.constant(history[chosen]), tf.ones(512))
        weights = training.start
        print(f"  central epoch {epoch + 1}: validation NDCG@20 {best.show(weights, epoch + 1):.4f}", flush=True)
        training.install(weights)


def federated(training: UserTraining, histories: Histories, server: Server, best: Best, arguments: argparse.Namespace) -> int:
    """Rounds of federated averaging; returns the number of clients there are."""
    length = training.two_tower.config.history_length
    clients = clients_of(histories, training, history_length=length, epochs=arguments.local_epochs)
    rng = np.random.default_rng(arguments.seed)
    for number in range(1, arguments.rounds + 1):
        drawn = rng.choice(len(clients), min(arguments.clients, len(clients)), replace=False)
        server.round([clients[client] for client in drawn])
        if number % max(arguments.rounds // 12, 1) == 0:
            figure = best.show(server.weights, number)
            print(f"  round {number}: validation NDCG@20 {figure:.4f}, {server.sent_up / 1e6:.1f} MB up", flush=True)
    return len(clients)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished run")
    parser.add_argument("--history", default="attention", choices=("attention", "mean", "transformer"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--clients", type=int, default=100, help="of a round")
    parser.add_argument("--local-epochs", type=int, default=1, help="passes of a client over its events in a round")
    parser.add_argument("--batch", type=int, default=16, help="events of a client's step")
    parser.add_argument("--rate", type=float, default=0.03, help="of a client's descent")
    parser.add_argument("--momentum", type=float, default=0.9, help="of the server")
    parser.add_argument("--epochs", type=int, default=4, help="of central training")
    parser.add_argument("--central-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.epochs, arguments.clients = 4, 1, 20
    begun = time.perf_counter()
    dataset = Dataset.load(arguments.run / "ingest")
    training = make_training(arguments.run, arguments)
    histories = positive_histories(dataset, ("train",))
    length = training.two_tower.config.history_length
    valid = make_requests(dataset, "valid", known_splits=("train",), history_length=length)
    test = make_requests(dataset, "test", known_splits=("train", "valid"), history_length=length)
    start = training.start
    bests = {name: Best(training, valid, start) for name in ("untrained", "central", "federated")}
    central(training, histories, start, bests["central"], arguments)
    server = Server(start, momentum=arguments.momentum)
    count = federated(training, histories, server, bests["federated"], arguments)
    results: dict[str, Any] = {}
    for name, best in bests.items():
        results[name] = {"best_at": best.at, "valid_ndcg@20": best.figure, **judge(training, best.weights, test)}
        print(f"{name:10} " + "  ".join(f"{key} {value}" for key, value in results[name].items()))
    report = {
        "benchmark": "federated",
        "settings": {name: value for name, value in vars(arguments).items() if name not in ("run", "quick")},
        "clients": count,
        "events": len(histories.items),
        "weights": sum(part.size for part in start),
        "test": results,
        "bytes_up": server.sent_up,
        "bytes_down": server.sent_down,
        "bytes_a_client_and_round": {"down": bytes_of(start), "up": bytes_of(start) + 8},
        "bytes_item_table": bytes_of([training.items.numpy()]),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
