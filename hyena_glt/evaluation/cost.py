"""What a run took and, where it has not ended, what it will still take."""

from __future__ import annotations

from dataclasses import dataclass

from .parts import short_count
from .run_folder import Run


@dataclass(frozen=True, slots=True)
class Cost:
    """Device hours are those of all workers together, over all starts, the time for starting, evaluating and saving included."""

    device: str
    """GPU or CPU."""
    devices: float
    """Of all workers together, at the last start."""
    hours: float
    tokens: int
    hours_left: float | None
    """Device hours to the planned end at the pace so far; None for a run that has ended."""
    steps_left: int

    @property
    def tokens_per_hour(self) -> float:
        """Tokens per device hour."""
        return self.tokens / self.hours


def cost(run: Run) -> Cost | None:
    """From the last report that tells the time; None where there is none yet."""
    start, last = run.last("start"), run.last_step
    workers, elapsed_s = start.get("world_size", 1), last.get("elapsed_s")
    if not elapsed_s:
        return None
    device = "CPU" if start.get("device", "cpu") == "cpu" else "GPU"
    devices = workers * run.config.cluster.devices_per_worker(device == "GPU")
    hours, steps_left = elapsed_s * devices / 3600.0, max(0, last.get("total_steps", 0) - last["step"])
    left = None if run.has_ended or not steps_left else hours * _rest(run, last["step"], steps_left)
    return Cost(device, devices, hours, int(last.get("tokens") or 0), left, steps_left)


def _rest(run: Run, step: int, steps_left: int) -> float:
    """What is left of the work over what is done: by rows where the plan is known, because steps may differ in size."""
    plan = run.plan()
    if plan is None or not step:
        return steps_left / max(step, 1)
    done = plan.rows_before(step)
    return (plan.rows_before(plan.total_steps) - done) / done


def in_words(found: Cost) -> str:
    """Hours, tokens per hour, and the way to the end."""
    several = f"{found.devices:g} {found.device}s" if found.devices > 1 else f"{found.devices:g} of a {found.device}"
    several = f"one {found.device}" if found.devices == 1 else several
    spent = (
        f"{found.hours:.3g} {found.device}-hours on {several}: {short_count(found.tokens_per_hour)} tokens per {found.device}-hour, "
        f"with the time for starting, evaluating and saving."
    )
    if found.hours_left is None:
        return spent
    return (
        f"{spent} The {found.steps_left:,} steps that are left will take about {found.hours_left:.3g} {found.device}-hours at this pace, "
        f"{duration(3600 * found.hours_left / found.devices)}."
    )


def duration(seconds: float) -> str:
    """90 -> 90 s, 5400 -> 90 min, 9000 -> 2 h 30 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
