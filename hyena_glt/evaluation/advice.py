"""What a run's figures say about its settings: sentences that name the setting to change. Pure functions of reports, settings and plan.

Each rule looks at one thing and stays silent where it is well or where there is too little to judge by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from ..config import Config
from ..training.metrics import ROLLED_BACK, SKIPPED, Report
from ..training.plan import Plan, split_batch
from .parts import share

MIN_REPORTS = 6
"""Fewer lines than this say nothing about a trend."""
SAME_LOSS = 0.999
"""A last third of the losses above this times the first third has not fallen."""
WORSE, MIN_WORSE = 1.005, 3
"""Validation losses above this times the best one are worse, and no noise where there are so many after it."""
SPIKE, SPIKE_WINDOW = 1.25, 5
"""A logged loss above this times the median of so many before it is a spike."""
MAX_WAIT = 0.05
MAX_PADDING = 0.2
MAX_WARMUP = 0.1
HIGH_RATES = {"adamw": 1e-3, "muon": 1e-3, "lion": 1e-4}
"""Peaks from which on a start without warm-up is risky."""
STILL_HIGH = 0.5
UNUSED_MEMORY = 0.4
MIN_UTILIZATION = 60.0
MAX_OVERFLOWS = 0.02
"""Share of the steps that fp16 may lose before its range is too small for the model."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing that stands out."""

    found: str
    """The figures."""
    change: str
    """The settings to change, with what they are now."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the rules look at."""

    reports: Sequence[Report]
    cfg: Config
    plan: Plan | None

    def values(self, kind: str, name: str) -> list[float]:
        """A figure in all reports of a kind that have it."""
        return [report[name] for report in self.reports if report["kind"] == kind and report.get(name) is not None]

    def last(self, kind: str) -> Report:
        """The last report of a kind, or an empty one."""
        return next((report for report in reversed(self.reports) if report["kind"] == kind), {})

    @property
    def rate(self) -> str:
        """The setting of the peak rate, with its values."""
        if stages := self.cfg.training.stages:
            peaks = [stage.learning_rate or self.cfg.training.learning_rate for stage in stages]
            return f"learning_rate in training.stages (now {', '.join(f'{peak:g}' for peak in peaks)})"
        return f"training.learning_rate (now {self.cfg.training.learning_rate:g})"

    @property
    def warmup(self) -> str:
        """The setting of the warm-up, with its value."""
        if stages := self.cfg.training.stages:
            return f"warmup_steps in training.stages (now {stages[0].warmup_steps:,} in {stages[0].name})"
        return f"training.warmup_steps (now {self.cfg.training.warmup_steps:,})"


def advise(reports: Sequence[Report], cfg: Config, plan: Plan | None = None) -> list[Advice]:
    """All that stands out, what harms the result first; rules about the course of the rate need the plan."""
    evidence = Evidence(reports, cfg, plan)
    rules = (
        _not_falling, _bad_steps, _spikes, _overflows, _clipped, _overfitting, _no_warmup, _long_warmup, _rate_still_high, _waits, _padding,
        _out_of_memory, _unused_memory, _idle_gpu,
    )
    return [advice for rule in rules if (advice := rule(evidence)) is not None]


def _not_falling(of: Evidence) -> Advice | None:
    losses = of.values("train", "loss")
    third = len(losses) // 3
    if len(losses) < MIN_REPORTS:
        return None
    first, last = fmean(losses[:third]), fmean(losses[-third:])
    if last <= SAME_LOSS * first:
        return None
    return Advice(
        f"The training loss does not fall: {first:.4f} in the first third of the run, {last:.4f} in the last",
        f"lower {of.rate}, raise {of.warmup}, or lower training.max_grad_norm (now {_or_none(of.cfg.training.max_grad_norm)})",
    )


def _bad_steps(of: Evidence) -> Advice | None:
    events = [report for report in of.reports if report.get("event") in (SKIPPED, ROLLED_BACK)]
    if not events:
        return None
    left_out = sum(report["event"] == SKIPPED for report in events)
    back = len(events) - left_out
    parts = [_many(left_out, "step was left out", "steps were left out")] * bool(left_out) + [_many(back, "roll-back")] * bool(back)
    return Advice(
        f"{' and '.join(parts)} for a loss that was not finite or a spike, the first at step {events[0]['step']:,}",
        f"lower {of.rate}, raise {of.warmup}, or lower training.max_grad_norm (now {_or_none(of.cfg.training.max_grad_norm)})",
    )


def _spikes(of: Evidence) -> Advice | None:
    """Only where nothing guards against them: else `_bad_steps` speaks."""
    points = [(report["step"], report["loss"]) for report in of.reports if report["kind"] == "train" and report.get("loss") is not None]
    spikes = [
        (step, loss, before) for number, (step, loss) in enumerate(points) if number >= SPIKE_WINDOW
        and loss > SPIKE * (before := median(earlier for _, earlier in points[number - SPIKE_WINDOW : number]))
    ]
    if not spikes or of.cfg.training.spike_factor is not None:
        return None
    step, loss, before = max(spikes, key=lambda spike: spike[1] / spike[2])
    return Advice(
        f"{_many(len(spikes), 'spike')} of the training loss, the highest at step {step:,}: {loss:.4f} after {before:.4f}",
        f"set training.spike_factor (now none), to {max(1.1, 0.5 + loss / before / 2):.2g} for instance, and training.on_bad_step to skip "
        f"or roll_back (now {of.cfg.training.on_bad_step})",
    )


def _overflows(of: Evidence) -> Advice | None:
    last = of.last("train")
    lost, step = last.get("skipped_steps", 0), last.get("step", 0)
    if not step or lost <= MAX_OVERFLOWS * step or of.last("start").get("precision") != "fp16":
        return None
    return Advice(
        f"{lost:,} of {step:,} steps were lost to overflows of fp16 ({share(lost / step)})",
        f"set hardware.precision to bf16 where the device has it, else to fp32 (now {of.cfg.hardware.precision}), or lower {of.rate}",
    )


def _clipped(of: Evidence) -> Advice | None:
    limit, norms = of.cfg.training.max_grad_norm, of.values("train", "grad_norm")
    if limit is None or len(norms) < MIN_REPORTS:
        return None
    above = sum(norm > limit for norm in norms) / len(norms)
    if above <= 0.5:
        return None
    return Advice(
        f"The gradient is clipped most of the time: its norm is above {limit:g} in {share(above)} of the reports, with a median of "
        f"{median(norms):.3g}",
        f"raise training.max_grad_norm (now {limit:g}) where the loss falls smoothly, else lower {of.rate}",
    )


def _overfitting(of: Evidence) -> Advice | None:
    evaluations = [(report["step"], report["loss"]) for report in of.reports if report["kind"] == "eval"]
    if not evaluations:
        return None
    number = min(range(len(evaluations)), key=lambda n: evaluations[n][1])
    (best_step, best), (_, last) = evaluations[number], evaluations[-1]
    before, after = _train_losses(of, up_to=best_step), _train_losses(of, beyond=best_step)
    few, later = min(len(before), len(after)), [loss for _, loss in evaluations[number + 1 :]]
    if len(later) < MIN_WORSE or min(last, fmean(later)) <= WORSE * best or not few or fmean(after[-few:]) >= fmean(before[-few:]):
        return None
    training, chance = of.cfg.training, of.cfg.data.reverse_complement
    strand = f", data.reverse_complement (now {chance:g})" if _has_strands(of.cfg) and chance < 0.5 else ""
    return Advice(
        f"The model overfits: the validation loss rose from {best:.4f} at step {best_step:,} to {last:.4f}, while the training loss fell "
        f"from {fmean(before[-few:]):.4f} to {fmean(after[-few:]):.4f}",
        f"raise model.dropout (now {of.cfg.model.dropout:g}), training.weight_decay (now {training.weight_decay:g}){strand}, or stop "
        f"earlier by training.early_stopping_patience (now {_or_none(training.early_stopping_patience)})",
    )


def _train_losses(of: Evidence, *, up_to: float = float("inf"), beyond: float = -1.0) -> list[float]:
    return [report["loss"] for report in of.reports if report["kind"] == "train" and beyond < report["step"] <= up_to]


def _has_strands(cfg: Config) -> bool:
    return cfg.preprocessing.sequence_type != "protein" and cfg.tokenization.kind != "amino_acid"


def _no_warmup(of: Evidence) -> Advice | None:
    if of.plan is None:
        return None
    stage, limit = of.plan.timeline.stages[0], HIGH_RATES[of.cfg.training.optimizer]
    if stage.warmup_steps or stage.peak < limit:
        return None
    return Advice(
        f"The run starts at once with a rate of {stage.peak:g}",
        f"set {of.warmup}, to {max(1, of.plan.total_steps // 50):,} for instance, or lower {of.rate}",
    )


def _long_warmup(of: Evidence) -> Advice | None:
    """A warm-up of a single step is no waste, however short the stage."""
    for stage in of.plan.timeline.stages if of.plan else ():
        steps = stage.end_step - stage.first_step
        if stage.warmup_steps > max(1.0, MAX_WARMUP * steps):
            of_what = f"stage {stage.name}" if of.cfg.training.stages else "the run"
            name = f"warmup_steps of {stage.name} in training.stages" if of.cfg.training.stages else "training.warmup_steps"
            return Advice(
                f"The warm-up takes {stage.warmup_steps:,} of the {steps:,} steps of {of_what} ({share(stage.warmup_steps / steps)})",
                f"lower {name} (now {stage.warmup_steps:,}), to {max(1, round(steps / 20)):,} for instance, or train longer",
            )
    return None


def _rate_still_high(of: Evidence) -> Advice | None:
    """Most of what a schedule gains comes from its descent."""
    rates = of.values("train", "learning_rate")
    if of.plan is None or not rates or of.last("end").get("reason") not in ("finished", "early_stopping"):
        return None
    peak, training = max(stage.peak for stage in of.plan.timeline.stages), of.cfg.training
    if rates[-1] <= STILL_HIGH * peak:
        return None
    found = f"The rate was still {rates[-1]:.3g} at the end of the run, {share(rates[-1] / peak)} of its peak"
    if of.last("end")["reason"] == "early_stopping" and not training.stages:
        end = of.last("end")["step"]
        return Advice(
            f"{found}, because it stopped early, at step {end:,} of {of.plan.total_steps:,}",
            f"plan a shorter run, in which the rate comes down: training.max_steps near {end:,} (now {_or_none(training.max_steps)})",
        )
    last = training.stages[-1] if training.stages else None
    name = f"schedule of {last.name} in training.stages (now {last.schedule})" if last else f"training.schedule (now {training.schedule})"
    return Advice(found, f"let it come down: set {name} to cosine or wsd")


def _waits(of: Evidence) -> Advice | None:
    waits, hardware = of.values("train", "loader_wait_share"), of.cfg.hardware
    if not waits or fmean(waits) <= MAX_WAIT:
        return None
    pin = " and set hardware.pin_memory" if "gpu_memory_gb" in of.last("train") and not hardware.pin_memory else ""
    return Advice(
        f"The steps wait for the loader in {share(fmean(waits))} of the time",
        f"raise hardware.num_workers (now {hardware.num_workers}){pin}",
    )


def _padding(of: Evidence) -> Advice | None:
    padding, data, preprocessing = of.last("start").get("padding_share", 0.0), of.cfg.data, of.cfg.preprocessing
    if padding <= MAX_PADDING:
        return None
    return Advice(
        f"{share(padding)} of the positions are padding",
        f"shorten data.sequence_length (now {_or_none(data.sequence_length)}), or preprocess with a shorter preprocessing.max_length (now "
        f"{preprocessing.max_length:,})",
    )


def _out_of_memory(of: Evidence) -> Advice | None:
    """A start after an out-of-memory error has more micro-steps than the settings ask for."""
    start = of.last("start")
    workers, rows, steps = start.get("world_size"), start.get("global_rows"), start.get("accumulation_steps")
    if not (workers and rows and steps) or rows % workers:
        return None
    asked, asked_steps = split_batch(rows, of.cfg.training.batch_size, workers)
    if steps <= asked_steps:
        return None
    return Advice(
        f"A batch of {asked:,} rows did not fit into a worker's memory; the run went on with {rows // workers // steps:,}",
        f"set training.batch_size={rows // workers // steps} training.gradient_accumulation_steps={steps} (now {asked} and "
        f"{of.cfg.training.gradient_accumulation_steps}), the same global batch, or hardware.gradient_checkpointing",
    )


def _unused_memory(of: Evidence) -> Advice | None:
    """Of use only where something was traded for memory: micro-steps, recomputation or offloading."""
    used, whole = max(of.values("train", "gpu_memory_gb"), default=0.0), of.last("start").get("device_memory_gb")
    if not used or not whole or used > UNUSED_MEMORY * whole:
        return None
    training, hardware = of.cfg.training, of.cfg.hardware
    found = f"At most {used:.1f} of {whole:.0f} GB of GPU memory were used ({share(used / whole)})"
    steps, most = training.gradient_accumulation_steps, int(0.8 * whole / used)
    factor = max(n for n in range(1, steps + 1) if steps % n == 0 and n <= most)
    if factor > 1:
        return Advice(
            found, f"make the same global batch of fewer micro-steps: training.batch_size={training.batch_size * factor} "
            f"training.gradient_accumulation_steps={steps // factor} (now {training.batch_size} and {steps})",
        )
    savers = ("gradient_checkpointing", "offload_optimizer", "offload_parameters")
    given = [f"hardware.{name}" for name in savers if getattr(hardware, name)]
    return Advice(found, f"turn off {' and '.join(given)}, which trades time for memory") if given else None


def _idle_gpu(of: Evidence) -> Advice | None:
    busy, cfg = of.values("train", "gpu_utilization"), of.cfg
    if len(busy) < MIN_REPORTS or median(busy) >= MIN_UTILIZATION:
        return None
    compiled = "" if cfg.hardware.compile_model else "set hardware.compile_model, or "
    return Advice(
        f"The GPU is busy only {median(busy):.0f} % of the time, in the median of the reports",
        f"{compiled}give it more work a step by a larger training.batch_size (now {cfg.training.batch_size})",
    )


def _many(number: int, one: str, several: str = "") -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def _or_none(value: float | None) -> str:
    return "none" if value is None else f"{value:,g}"
