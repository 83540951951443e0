"""Settings of tracking: where a finished run's settings and figures are told, beside TensorBoard's files."""

from __future__ import annotations

from pipeline.settings.section import Section


class TrackingSection(Section):
    """`[tracking]`: both kinds need `pip install -r requirements-tracking.txt`; both are empty by default."""

    mlflow: str = ""
    """MLflow's store: a server (`http://host:5000`), a database (`sqlite:///runs/mlflow.db`) or a folder (`file:runs/mlflow`,
    which MLflow keeps up but does not develop); "" = none."""
    wandb: str = ""
    """A project of Weights & Biases, to which the figures are sent; "offline" = they are written to `<run>/wandb` and stay
    there until `wandb sync`; "" = none."""
    experiment: str = "triptych"
    """What runs are filed under at MLflow, and the project of offline ones at Weights & Biases."""
