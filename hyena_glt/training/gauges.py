"""A worker's figures on the metrics endpoint of its Ray node, for Prometheus. Runs on the workers."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge

GAUGES = {
    "step": "Optimizer steps done",
    "first_step": "Optimizer steps done when this start went on; a change is a restart",
    "epoch": "Passes over the data",
    "tokens": "Tokens trained on, all workers",
    "loss": "Training loss, nats a scored token, all workers",
    "validation_loss": "Validation loss, nats a scored token, all workers",
    "learning_rate": "Learning rate",
    "grad_norm": "Norm of the gradient before clipping",
    "tokens_per_s": "Tokens a second, all workers",
    "mfu": "Model FLOPs utilisation",
    "loader_wait_share": "Share of the time in which this worker waited for its loader",
    "peer_wait_s": "Seconds a step in which this worker waited for the others to begin it",
    "straggler_gap_s": "Seconds a step by which the slowest worker's forward passes and loader exceed the fastest's",
    "save_stalled_s": "Seconds in which training stood still for checkpoints, since the last report",
    "saved_step": "Step of the last checkpoint that is whole",
    "writing_s": "Seconds in which it was written, behind the training",
    "gpu_memory_gb": "Peak memory of this worker's GPU",
    "gpu_utilization": "Utilisation of this worker's GPU, percent",
}
"""What is shown, each as `ray_hyena_glt_NAME` with the labels `run` and `rank`."""


class Gauges:
    """One gauge a figure."""

    def __init__(self, run: str, rank: int) -> None:
        self._gauges = {name: Gauge(f"hyena_glt_{name}", description=text, tag_keys=("run", "rank")) for name, text in GAUGES.items()}
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": run, "rank": str(rank)})
        self._latest: dict[str, float] = {}

    def show(self, report: Mapping[str, object]) -> None:
        """Set those that the report has a number for; the others again as they were, for Ray forgets what is not set again."""
        self._latest |= {name: value for name in GAUGES if isinstance(value := report.get(name), int | float)}
        for name, value in self._latest.items():
            self._gauges[name].set(value)
