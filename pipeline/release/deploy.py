"""Kubernetes manifests of a run: the templates of `deploy/kubernetes`, filled with the sizes of its own releases."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jinja2

from data.durable_file import write_durably
from pipeline.content.store_encoders import content_store, weights_folder
from pipeline.reproduce_record import SETTINGS
from pipeline.settings.config import Config, load_config
from serving.catalogue.released_run import ingested_folder
from serving.releases.gc import folder_bytes
from serving.releases.labels import read_labels
from serving.releases.manifest import Release, read_release
from serving.releases.release import latest_release
from serving.releases.view import release_models

TEMPLATES = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
MIB, GIB = 1 << 20, 1 << 30

VERSIONS_LOADED = 2
"""`serving.releases.labels` never labels more."""

LOADED_PER_BYTE = 2
"""Memory of a loaded model for each byte of its files: its variables, and the graph that they came in. On the demo's
release the local server measured 2.2, warm-up included 2.7."""

SERVING_MIB = 1024
"""What TF Serving needs itself, and what requests under way need."""

GATEWAY_MIB = 1024
"""TensorFlow's protocol messages, which the gateway's client imports, and the web server."""

RELEASES_KEPT = 5
"""On disk: the newest three, and two with labels."""

STORE = "feature-store"
"""Of encoded media, in the run's volume, where `training.yaml.j2` has it; the encoders' weights lie beside it."""

JOBS = "jobs"
NO_STAGES = ("gateway", "follow", "followed")
"""Folders of a run that no job makes. In `JOBS` each job has one of its own."""

LOAD_BYTES_PER_SECOND = 20e6
"""A slow start: a cold network disk, and warm-up on a busy core."""


@dataclasses.dataclass(frozen=True)
class DeployOptions:
    """What the sizes of a release do not tell.

    Attributes:
        namespace: Kubernetes namespace, made by the manifests.
        serving_image, gateway_image: container images, with tags.
        storage_class: of the volumes, with ReadWriteMany; "" = the cluster's default.
        replicas, max_replicas: pods of TF Serving. gateway_replicas: of the gateway.
        cpus: cores that a pod of TF Serving asks for.
        training_cpus, training_gib: of the nightly job. schedule: when it starts, in UTC. config: its settings.
        feedback: whether it brings what gateways kept on their volume into the dataset.

    Raises:
        ValueError: a number below 1, or fewer pods at most than at least.
    """

    namespace: str = "triptych"
    serving_image: str = "tensorflow/serving:2.20.0"
    gateway_image: str = "triptych-gateway:0.1.0"
    storage_class: str = ""
    replicas: int = 2
    max_replicas: int = 8
    gateway_replicas: int = 3
    cpus: int = 2
    training_cpus: int = 4
    training_gib: int = 16
    schedule: str = "30 2 * * *"
    config: str = "configs/demo.toml"
    feedback: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and value < 1:
                raise ValueError(f"{field.name}: must be at least 1, received {value}")
        if self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas: must be at least replicas ({self.replicas}), received {self.max_replicas}")


def measure_run(run: Path, dataset: Path | None = None, keep: int | None = None) -> dict[str, Any]:
    """The figures that the templates ask of a run: its largest release in use, and what it all takes on disk and loaded.

    A gateway loads the folder that a release's own run or job ingested, and the volume has room for the nights to come.

    Args:
        keep: `job.keep` of the nightly job; None = that of the release's run.

    Raises:
        ReleaseError: no release, or one whose manifest cannot be read.
    """
    releases = run / "releases"
    newest, labels = int(latest_release(releases).name), read_labels(releases)
    used = sorted({newest, *labels.versions})
    served = {version: _served_bytes(read_release(releases / str(version)), releases) for version in used}
    version = max(used, key=lambda number: served[number])
    release = read_release(releases / str(version))
    models = math.ceil(served[version] / MIB)
    ingested = max(folder_bytes(ingested_folder(run, number)) for number in used)
    data = folder_bytes(dataset) if dataset is not None else 0
    return {
        "version": version,
        "fingerprint": release.fingerprint,
        "models_mib": models,
        "base_mib": SERVING_MIB,
        "serving_request_mib": VERSIONS_LOADED * LOADED_PER_BYTE * models + SERVING_MIB // 2,
        "serving_limit_mib": VERSIONS_LOADED * LOADED_PER_BYTE * models + SERVING_MIB,
        "startup_failures": 12 + math.ceil(VERSIONS_LOADED * served[version] / LOAD_BYTES_PER_SECOND / 5),
        "gateway_request_mib": GATEWAY_MIB + math.ceil(8 * ingested / MIB),
        "gateway_limit_mib": 2 * (GATEWAY_MIB + math.ceil(8 * ingested / MIB)),
        **_volume(run, release, keep),
        "dataset_storage_gib": max(1, math.ceil(1.5 * data / GIB)),
        "canary_replicas": 0 if labels.canary is None else 1,
    }


def _volume(run: Path, release: Release, keep: int | None) -> dict[str, int]:
    """What the run's volume holds once nights have come: releases, whole folders of jobs, encoded media, and the rest."""
    settings = ingested_folder(run, release.version).parent / SETTINGS
    config = load_config(settings) if settings.is_file() else Config()
    stores = (run / STORE, content_store(config.encoders, run))
    inside, elsewhere = (folder_bytes(store) + folder_bytes(weights_folder(store)) for store in stores)
    stored = max(inside, elsewhere)
    rest = folder_bytes(run) - folder_bytes(run / "releases") - folder_bytes(run / JOBS) - inside
    # Before the first job: it does what the run has done.
    stages = rest - sum(folder_bytes(run / name) for name in NO_STAGES)
    jobs = (run / JOBS).glob("[0-9]*")
    job = max((folder_bytes(folder) - folder_bytes(folder / "releases") for folder in jobs), default=stages)
    job += release.bytes  # one that was kept back has its release still
    kept = (config.job.keep if keep is None else keep) + VERSIONS_LOADED + 1  # the labelled ones, and that of this night
    return {
        "release_mib": math.ceil(release.bytes / MIB),
        "releases_kept": RELEASES_KEPT,
        "job_mib": math.ceil(job / MIB),
        "jobs_kept": kept,
        "store_mib": math.ceil(stored / MIB),
        "run_mib": math.ceil(rest / MIB),
        "run_storage_gib": math.ceil(1.5 * (RELEASES_KEPT * release.bytes + kept * job + stored + rest) / GIB),
    }


def render_manifests(figures: dict[str, Any], options: DeployOptions) -> dict[str, str]:
    """The filled templates by file name, in the order in which they are applied."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # YAML, and every value is a number or the operator's own
    )
    values = {**dataclasses.asdict(options), **figures}
    names = ("namespace", "storage", "serving", "gateway", "training")
    return {
        f"{place}-{name}.yaml": environment.get_template(f"{name}.yaml.j2").render(values)
        for place, name in enumerate(names)
    }


def write_manifests(
    run: Path, out: Path, options: DeployOptions, dataset: Path | None = None, keep: int | None = None
) -> dict[str, Any]:
    """Writes the manifests of a run into a folder, each file whole or not at all; returns the figures in them.

    Raises:
        ReleaseError: see `measure_run`.
    """
    figures = measure_run(run, dataset, keep)
    manifests = render_manifests(figures, options)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in manifests.items():
        write_durably(out / name, [text.encode()])
    return figures


def _served_bytes(release: Release, releases: Path) -> int:
    """Of the models that the stock server loads."""
    return sum(release.model_bytes[name] for name in release_models(releases, release.version))
