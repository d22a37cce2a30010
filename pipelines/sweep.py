"""Sweep: many trials of one run, each with its own values of a few settings, side by side on Ray Tune. Runs on the driver.

The same command on the same folder goes on: ended trials are kept, those that had begun go on from their own checkpoints.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.util
from ray import PlacementGroupID, tune
from ray.tune.execution import class_cache
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.util.placement_group import PlacementGroup

from cluster.paths import placed, with_default_folders
from hyena_glt.config import Config, TuneConfig, changed_settings, dump_config, load_config, require_built
from hyena_glt.config.dump import compact
from hyena_glt.data.mixture import Mixture
from hyena_glt.errors import ConfigError
from hyena_glt.evaluation.sweep_folder import PARQUET_FILE, SPACE_FILE, Sweep, read_sweep, write_parquet
from hyena_glt.evaluation.sweep_page import render
from hyena_glt.files import atomic_write
from hyena_glt.training.launch import in_thread, stop_on_interrupt
from hyena_glt.training.metrics import METRICS_FILE, read_reports
from hyena_glt.training.orders import OWNER_FILE
from hyena_glt.training.plan import Plan, plan_run
from hyena_glt.training.trials import TRIALS, Trial, read_trials, run_folder, spent, trial_config, write_trial
from tune_spaces import METRICS, Space, load_space

from ._command import run_as
from ._ray import is_local, start_ray
from ._search import Past, Suggestions, build_scheduler, plan_trials, require_search
from ._trial import BUSY, CONFIG, ENDING_FILE, TrialActor, recorded_validations
from ._watch import Budget, EarlyEnd, Watch, hours_before
from .pretrain import FREE_SECTIONS, resolve, workers_on_cluster

TUNE_FOLDER, BEST_FILE, PAGE_FILE = ".ray", "best.yaml", "sweep.html"
INTERRUPTED = "interrupted; the same command goes on"
SET_BY_STAGES = ("training.learning_rate", "training.min_learning_rate", "model.dropout")
"""Settings that a stage may have for itself, under the same name."""
FREE = (
    *(section for section in FREE_SECTIONS if section not in ("hardware", "logging", "tune")), "training.output_dir", "tune.num_trials",
    "tune.max_concurrent", "tune.max_tokens", "tune.max_device_hours", "tune.max_hours", "tune.output_dir", "tune.space",
)
"""What may change when a sweep goes on; the space itself is compared by what it holds."""
LEFTOVERS_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """A sweep, worked out before anything starts."""

    cfg: Config
    """What all trials share, resolved."""
    space: Space
    folder: Path
    workers: int
    use_gpu: bool
    concurrency: int
    planned: list[Trial]
    """The trials, where the search knows them beforehand."""
    plans: list[Plan]
    """Of the planned trials, or else of examples: one for each value that a list of the space has."""
    start: str
    """Names this start, which the folder belongs to until another takes it over."""

    @property
    def tune(self) -> TuneConfig:
        assert self.cfg.tune is not None
        return self.cfg.tune

    @property
    def longest(self) -> Plan:
        """The plan with the most steps."""
        return max(self.plans, key=lambda plan: plan.total_steps)

    @property
    def full_steps(self) -> int:
        """Optimizer steps if no trial were stopped."""
        return sum(plan.total_steps for plan in self.plans) * self.space.num_trials // len(self.plans)

    @property
    def full_tokens(self) -> int:
        """Tokens of the same trials."""
        return sum(plan.total_tokens for plan in self.plans) * self.space.num_trials // len(self.plans)


def sweep(cfg: Config, *, dry_run: bool = False) -> dict[str, Any]:
    """Search `tune.space` with real pretrainings; returns the result that the command line prints.

    Raises ConfigError, DataError or ClusterError before anything starts. A trial that fails does not end the sweep.
    """
    cfg = placed(cfg, "sweep")
    require_built(cfg, "pretrain")
    require_built(cfg, "sweep")
    space = _space(cfg)
    require_search(space)
    cfg, folder = _with_folder(cfg)
    cfg, mixture = resolve(_for_trials(cfg, space))
    if not cfg.data.val_path:
        raise ConfigError("data.val_path: a sweep compares trials by their validation, and there is no such split; preprocess with one")
    _refuse_other_sweep(cfg, space, folder)
    with start_ray(cfg.cluster.address, cfg.cluster.num_cpus):
        job = _work_out(cfg, space, folder, mixture)
        _announce(job)
        if dry_run:
            return _dry_result(job)
        _claim(job)
        reason = _run(job)
    return _results(job, reason)


# Before anything starts


def _space(cfg: Config) -> Space:
    if cfg.tune is None or cfg.tune.space is None:
        raise ConfigError("tune.space: a sweep needs one; give --space with the name of a search space or the path of a YAML file")
    space = load_space(cfg.tune.space)
    if cfg.tune.num_trials is None:
        return space
    if space.search == "grid":
        raise ConfigError(f"tune.num_trials: has no effect on a grid, which runs all of its {space.num_trials} points; remove it")
    return replace(space, num_trials=cfg.tune.num_trials)


def _with_folder(cfg: Config) -> tuple[Config, Path]:
    tune = with_default_folders(cfg).tune
    assert cfg.tune is not None and tune is not None
    folder = Path(str(tune.output_dir)).absolute()
    return replace(cfg, tune=replace(cfg.tune, output_dir=str(folder))), folder


def _for_trials(cfg: Config, space: Space) -> Config:
    """With a checkpoint at each validation, at least, where trials take over each other's."""
    if space.scheduler.kind != "pbt":
        return cfg
    intervals = [stage.eval_interval or cfg.logging.eval_interval for stage in cfg.training.stages] or [cfg.logging.eval_interval]
    return replace(cfg, logging=replace(cfg.logging, save_interval=math.gcd(*intervals)))


def _refuse_other_sweep(cfg: Config, space: Space, folder: Path) -> None:
    """ConfigError for a folder that is not empty and not this sweep's."""
    if not (folder / CONFIG).exists() or not (folder / SPACE_FILE).exists():
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"tune.output_dir: {folder} holds other files and no sweep; choose an empty or new folder")
        return
    changed = [key for key in changed_settings(load_config(folder / CONFIG), cfg) if key not in FREE and key.split(".")[0] not in FREE]
    before, now = json.loads((folder / SPACE_FILE).read_text()), _space_as_json(space)
    changed += [f"{name} of the space" for name in now if before.get(name) != now[name] and name != "num_trials"]
    if changed:
        raise ConfigError(
            f"tune.output_dir: {folder} is the folder of another sweep; these differ: {', '.join(changed)}. "
            f"Take them back to go on with it, or choose a new folder"
        )


def _space_as_json(space: Space) -> dict[str, Any]:
    """What a sweep folder says of its space."""
    scheduler = {name: getattr(space.scheduler, name) for name in type(space.scheduler).__slots__}
    settings = {path: [domain.kind, *map(compact, domain.values)] for path, domain in space.settings.items()}
    return {"settings": settings, "search": space.search, "num_trials": space.num_trials, "metric": space.metric, "scheduler": scheduler}


def _work_out(cfg: Config, space: Space, folder: Path, mixture: Mixture) -> Job:
    assert cfg.tune is not None
    workers, use_gpu = workers_on_cluster(cfg)
    concurrency = _concurrency(cfg, workers, use_gpu)
    planned = plan_trials(space, seed=cfg.tune.seed) if space.search != "bayesian" else []
    plans = _plans(cfg, space, planned, mixture, workers)
    _check_scheduler(cfg, space, plans, concurrency)
    return Job(
        cfg, space, folder, workers, use_gpu, min(concurrency, space.num_trials), planned, plans[: len(planned)] or plans,
        start=secrets.token_hex(8),
    )


def _require_effect(cfg: Config, space: Space) -> None:
    """ConfigError where every stage sets for itself what the space searches."""
    for path in SET_BY_STAGES:
        name = path.rpartition(".")[2]
        if path in space.settings and cfg.training.stages and all(getattr(stage, name) is not None for stage in cfg.training.stages):
            raise ConfigError(
                f"{path}: each of training.stages has a {name} of its own, so all trials would be alike; leave it out of a stage, or "
                f"search training.stages as a whole"
            )


def _plans(cfg: Config, space: Space, planned: list[Trial], mixture: Mixture, workers: int) -> list[Plan]:
    """The plan of each planned trial, then that of a trial with each listed value; ConfigError with the problems of all."""
    _require_effect(cfg, space)
    problems: list[str] = []
    plans = []
    drawn = [trial.settings for trial in planned] or [space.draw(0, seed=0)]
    listed = [{**drawn[0], path: value} for path, domain in space.settings.items() if not domain.is_range for value in domain.values]
    for settings in [*drawn, *listed]:
        try:
            plans.append(plan_run(trial_config(cfg, settings, None), mixture, world_size=workers))
        except ConfigError as error:
            problems += [f"a trial cannot run with {settings}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return plans


def _concurrency(cfg: Config, workers: int, use_gpu: bool) -> int:
    """Trials that fit the cluster side by side: their workers' CPUs and GPUs, since all else of a trial takes next to none.

    A cluster that has no room for any must grow first, and is asked for `tune.max_concurrent`.
    """
    assert cfg.tune is not None
    has, share = ray.cluster_resources(), cfg.cluster.gpus_per_worker
    fitting = int(has.get("CPU", 0)) // (workers * cfg.cluster.cpus_per_worker)
    if use_gpu:
        fitting = min(fitting, int(has.get("GPU", 0)) * int(1 / share + 1e-9) // workers)
    if not fitting and not is_local(cfg.cluster.address):
        return cfg.tune.max_concurrent or 1
    return max(1, min(fitting, cfg.tune.max_concurrent or fitting))


def _check_scheduler(cfg: Config, space: Space, plans: list[Plan], concurrency: int) -> None:
    """ConfigError where a scheduler would never decide anything, or a population does not fit."""
    kind, every = space.scheduler.kind, cfg.logging.eval_interval
    if kind != "none" and all(plan.timeline.validations(every) == [plan.total_steps] for plan in plans):
        longest = max(plan.total_steps for plan in plans)
        by_stages = any(stage.eval_interval for plan in plans for stage in plan.timeline.stages)
        raise ConfigError(
            f"{'training.stages' if by_stages else 'logging.eval_interval'}: {kind} judges trials by their validations, and a run of "
            f"{longest:,} steps has none before its end; set eval_interval to at most {max(1, longest // 10):,}"
        )
    if kind == "pbt" and cfg.logging.keep_checkpoints is not None:
        raise ConfigError("logging.keep_checkpoints: pbt lets trials go on from each other's checkpoints, so none may go; remove it")
    if kind == "pbt" and not 2 <= space.num_trials <= concurrency:
        raise ConfigError(
            f"tune.num_trials: a pbt population trains side by side, and this cluster fits {concurrency} trials, not {space.num_trials}; "
            f"set it to 2 to {concurrency}, or give a trial less (cluster.train_workers, cluster.gpus_per_worker)"
        )


def _announce(job: Job) -> None:
    space, device = job.space, "GPU" if job.use_gpu else "CPU"
    share = f" ({job.cfg.cluster.gpus_per_worker:g} of a GPU each)" if job.use_gpu and job.cfg.cluster.gpus_per_worker < 1 else ""
    log.info("%s: %d trials, %s search for %s, scheduler %s", job.folder, space.num_trials, space.search, space.metric,
             space.scheduler.kind)
    for path, domain in space.settings.items():
        log.info("  %s: %s", path, domain.describe())
    log.info("%d trials side by side, each on %d %s worker%s%s; a whole trial is up to %s steps, a full grid %s steps and %s tokens",
             job.concurrency, job.workers, device, "s" * (job.workers > 1), share, f"{job.longest.total_steps:,}",
             f"{job.full_steps:,}", f"{job.full_tokens:,}")
    for note in job.longest.notes:
        log.warning("note: %s", note)


def _dry_result(job: Job) -> dict[str, Any]:
    for trial in job.planned:
        log.info("trial %s: %s", trial.id, ", ".join(f"{path}={value}" for path, value in trial.settings.items()))
    return {
        "status": "planned", "sweep": str(job.folder), "trials": job.space.num_trials, "concurrent": job.concurrency,
        "workers": job.workers, "gpu": job.use_gpu, "search": job.space.search, "metric": job.space.metric,
        "scheduler": job.space.scheduler.kind, "domains": {path: domain.describe() for path, domain in job.space.settings.items()},
        "full_grid_steps": job.full_steps, "full_grid_tokens": job.full_tokens,
    }


# While it runs


def _claim(job: Job) -> None:
    """Make the folder this sweep's, and write down the trials that it will have."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / ENDING_FILE).unlink(missing_ok=True)
    shutil.rmtree(job.folder / TUNE_FOLDER, ignore_errors=True)
    atomic_write(job.folder / OWNER_FILE, job.start)
    atomic_write(job.folder / CONFIG, dump_config(job.cfg))
    atomic_write(job.folder / SPACE_FILE, json.dumps(_space_as_json(job.space), indent=1) + "\n")
    for busy in (job.folder / TRIALS).glob(f"*{BUSY}"):  # of a driver that was killed, and its actors with it
        busy.unlink()
    known = {trial.id for trial in read_trials(job.folder)}
    for trial in job.planned:
        if trial.id not in known:
            write_trial(job.folder, trial)


def _run(job: Job) -> str | None:
    """Run the trials that have not ended; why it ended before all had, if it did."""
    trials = read_trials(job.folder)
    past: Past = [(trial, recorded_validations(run_folder(job.folder, trial.id))) for trial in trials if trial.has_ended]
    left = job.space.num_trials - len(past)
    begun = [trial for trial in trials if not trial.has_ended][: max(0, left)]
    if left <= 0:
        log.warning("this sweep has ended already; its result follows. More trials (tune.num_trials) go on")
        return None
    if trials and past:
        log.info("going on: %d trials have ended, %d are left", len(past), left)
    devices = job.workers * job.cfg.cluster.devices_per_worker(job.use_gpu)
    limits = (job.tune.max_tokens, job.tune.max_device_hours, job.tune.max_hours)
    budget = Budget(job.folder, *limits, devices, hours_before=hours_before(job.folder))
    _note_what_was_used(job, trials, budget)
    watch = Watch(
        job.folder, budget, num_trials=job.space.num_trials, ended=len(past), metric=job.space.metric, paths=list(job.space.settings)
    )
    if budget.reason is None:
        _fit(job, watch, budget, begun, past, left)
    budget.save()
    (job.folder / ENDING_FILE).unlink(missing_ok=True)
    if budget.reason:
        log.warning("%s", budget.reason)
    return budget.reason


def _note_what_was_used(job: Job, trials: list[Trial], budget: Budget) -> None:
    for trial in trials:
        _, tokens, seconds = spent(read_reports(run_folder(job.folder, trial.id) / METRICS_FILE))
        budget.note(trial.id, tokens, seconds)


def _fit(job: Job, watch: Watch, budget: Budget, begun: list[Trial], past: Past, left: int) -> None:
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # trials write their own metrics
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # whose first lines come even when it is told to be silent
    # Tune would send the driver's keys along with each trial, and Ray writes into a log what is sent; nodes have their own.
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")}
    for quiet in ("ray.tune", "ray.train"):
        logging.getLogger(quiet).setLevel(logging.ERROR)
    search, param_space, samples = _search(job, begun, past, left)
    total = max(plan.total_steps if job.space.scheduler.unit == "steps" else plan.total_tokens for plan in job.plans)
    tuner = tune.Tuner(
        tune.with_resources(TrialActor, {"memory": 1}),  # a byte: Tune wants something, and CPUs and GPUs are for the workers
        param_space=param_space,
        tune_config=tune.TuneConfig(
            search_alg=search, num_samples=samples, reuse_actors=True,
            scheduler=build_scheduler(job.space, total=total, past=past),
            max_concurrent_trials=job.concurrency if job.space.search == "bayesian" else None,
            trial_name_creator=_name, trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="tune", storage_path=str(job.folder / TUNE_FOLDER), verbose=0, stop=EarlyEnd(watch), callbacks=[watch],
            failure_config=tune.FailureConfig(max_failures=job.cfg.cluster.max_failures),
        ),
    )
    watch.header()
    before = _placement_groups()
    try:
        with stop_on_interrupt(lambda: budget.end(INTERRUPTED)):
            in_thread(tuner.fit)
    finally:
        _remove_leftovers(before)
        shutil.rmtree(job.folder / TUNE_FOLDER, ignore_errors=True)


def _name(trial: Any) -> str:
    return trial.config["trial"]


def _search(job: Job, begun: list[Trial], past: Past, left: int) -> tuple[Any, dict[str, Any], int]:
    """Tune's search, its parameter space and its number of samples, for the trials that are left."""
    population = job.space.scheduler.kind == "pbt"
    shared = {"sweep": str(job.folder), "start": job.start, "metric": METRICS[job.space.metric].report, "population": population,
              "local": is_local(job.cfg.cluster.address)}
    if job.space.search == "bayesian":
        return Suggestions(job.folder, job.space, shared, begun=begun, past=past, seed=job.tune.seed), {}, left
    given = {trial.id: trial.settings for trial in begun}
    param_space = shared | {
        "trial": tune.grid_search(list(given)), "given": tune.sample_from(lambda spec: given[spec.config.trial]),
    }
    return BasicVariantGenerator(max_concurrent=job.concurrency), param_space, 1


def _placement_groups() -> set[str]:
    """Those of this driver that hold or wait for resources."""
    job = ray.get_runtime_context().get_job_id()
    found = ray.util.placement_group_table()
    return {name for name, group in found.items() if name.endswith(job) and group["state"] not in ("REMOVED", "FAILED")}


def _remove_leftovers(before: set[str]) -> None:
    """Free what a trial's process left when it died; those that ended well have freed all themselves."""
    waited = time.monotonic()
    while (left := _placement_groups() - before) and time.monotonic() - waited < LEFTOVERS_S:
        time.sleep(0.2)
    for name in left:
        log.warning("a trial left placement group %s behind; removed", name)
        ray.util.remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


# Results


def _results(job: Job, reason: str | None) -> dict[str, Any]:
    """Write table, page and best.yaml; the result."""
    found = read_sweep(job.folder)
    write_parquet(found)
    best = found.best()
    if best is not None:
        atomic_write(job.folder / BEST_FILE, _best_yaml(job, found))
    result = _result(job, found, reason)
    atomic_write(job.folder / PAGE_FILE, render(found, result))
    return result


def _best_yaml(job: Job, found: Sweep) -> str:
    """Settings that run the best trial anew, whole."""
    best = found.best()
    assert best is not None
    cfg = trial_config(job.cfg, best.settings, job.folder.parent / f"{job.folder.name}-best")
    notes = [f"# Trial {best.id} of {job.folder}: {found.metric} {best.best_value:.6f} at step {best.best_step:,}."]
    if found.scheduler == "pbt":
        notes.append("# The settings that it ended with; pbt had changed them on the way, so a run from the start takes another way.")
    return "\n".join(notes) + "\n" + dump_config(cfg)


def _result(job: Job, found: Sweep, reason: str | None) -> dict[str, Any]:
    best = found.best()
    counts = found.counts()
    steps = sum(row.spent_steps for row in found.rows)
    status = "interrupted" if reason == INTERRUPTED else "ended_by_budget" if reason else "finished"
    return {
        "status": status, "sweep": str(job.folder), "ended_by": reason, "trials": counts | {"planned": job.space.num_trials},
        "metric": found.metric, "best_trial": best.id if best else None, "best_value": best.best_value if best else None,
        "best_settings": best.settings if best else None, "steps": steps, "tokens": sum(row.spent_tokens for row in found.rows),
        "share_of_full_grid": steps / job.full_steps, "device_hours": sum(row.device_hours for row in found.rows),
        "best_config": str(job.folder / BEST_FILE) if best else None, "page": str(job.folder / PAGE_FILE),
        "table": str(job.folder / PARQUET_FILE),
    }


if __name__ == "__main__":
    run_as("sweep")
