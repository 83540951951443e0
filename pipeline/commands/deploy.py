"""`python -m pipeline deploy`: the Kubernetes manifests of a run, with memory and disk by its own releases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.stage import StageError


def deploy(
    run: Annotated[Path, typer.Option("--run", help="Run folder with a release.")] = Path("runs/demo"),
    out: Annotated[Path, typer.Option("--out", help="Folder for the manifests.")] = Path("runs/kubernetes"),
    data: Annotated[Path | None, typer.Option("--data", help="Dataset folder, to size its volume.")] = None,
    namespace: Annotated[str, typer.Option(help="Kubernetes namespace.")] = "triptych",
    gateway_image: Annotated[str, typer.Option(help="Built from deploy/gateway.Dockerfile.")] = "triptych-gateway:0.1.0",
    storage_class: Annotated[str, typer.Option(help="With ReadWriteMany; the cluster's default unless given.")] = "",
    replicas: Annotated[int, typer.Option(help="Pods of TF Serving, at least.")] = 2,
    max_replicas: Annotated[int, typer.Option(help="Pods of TF Serving, at most.")] = 8,
    gateway_replicas: Annotated[int, typer.Option(help="Pods of the gateway, at least.")] = 3,
    cpus: Annotated[int, typer.Option(help="Cores that a pod of TF Serving asks for.")] = 2,
    config: Annotated[str, typer.Option(help="Settings of the nightly job, a path in the image.")] = "configs/demo.toml",
    feedback: Annotated[
        bool, typer.Option(help="The nightly job adds what gateways keep on the volume `state` to the dataset.")
    ] = True,
) -> None:
    """Write Kubernetes manifests whose memory and disk follow from the sizes of the run's releases.

    Example: python -m pipeline deploy --run runs/demo --out runs/kubernetes && kubectl apply -f runs/kubernetes
    """
    from pipeline.release.deploy import DeployOptions, write_manifests
    from pipeline.settings.config import load_config
    from serving.releases.manifest import ReleaseError

    try:
        options = DeployOptions(
            namespace=namespace,
            gateway_image=gateway_image,
            storage_class=storage_class,
            replicas=replicas,
            max_replicas=max_replicas,
            gateway_replicas=gateway_replicas,
            cpus=cpus,
            config=config,
            feedback=feedback,
        )
        # The image has this repository's files.
        keep = load_config(config).job.keep if Path(config).is_file() else None
        figures = write_manifests(run, out, options, data, keep)
    except (ReleaseError, ValueError) as error:
        raise StageError(str(error)) from error
    typer.echo(
        f"{out}: release {figures['version']} has {figures['models_mib']:,} MiB of models; TF Serving asks for "
        f"{figures['serving_request_mib']:,} MiB and gets at most {figures['serving_limit_mib']:,} MiB a pod (two releases "
        f"loaded), the gateway {figures['gateway_limit_mib']:,} MiB; the run's volume has {figures['run_storage_gib']} GiB."
    )
    typer.echo(
        f"docker compose: SERVING_MEMORY={figures['serving_limit_mib']}m GATEWAY_MEMORY={figures['gateway_limit_mib']}m\n"
        f"Next: deploy/README.md, then kubectl apply -f {out}"
    )
