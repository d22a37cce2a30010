"""Which of the varied settings the result depended on."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from typing import Any

import numpy as np

from .sweep_folder import Row, Sweep

LEAST_TRIALS = 4
BY_OPTUNA = "share of the variance that each setting explains, by Optuna's PED-ANOVA"
BY_RANKS = "rank correlation of each setting with the result, as a share of their sum (Optuna is not installed)"


def importance(sweep: Sweep) -> tuple[dict[str, float], str]:
    """Of each setting, from the most important; and how it was found. Empty where too few trials were measured."""
    rows = [row for row in sweep.rows if row.best_value is not None]
    if len(rows) < LEAST_TRIALS or len({row.best_value for row in rows}) < 2:
        return {}, f"fewer than {LEAST_TRIALS} trials were measured"
    found, how = (_by_optuna(sweep, rows), BY_OPTUNA) if find_spec("optuna") else (by_ranks(sweep, rows), BY_RANKS)
    return dict(sorted(found.items(), key=lambda item: -item[1])), how


def _by_optuna(sweep: Sweep, rows: list[Row]) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(logging.ERROR)
    study = optuna.create_study(direction="maximize" if sweep.maximizes else "minimize")
    distributions = {path: _distribution(path, kind, values, rows) for path, (kind, *values) in sweep.domains.items()}
    for row in rows:
        params = {path: _encoded(row.settings[path], sweep.domains[path][0]) for path in sweep.domains}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=row.best_value))
    return dict(optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()))


def _distribution(path: str, kind: str, values: list[Any], rows: list[Row]) -> Any:
    from optuna import distributions

    if kind not in ("uniform", "loguniform", "int", "logint"):
        return distributions.CategoricalDistribution([json.dumps(value) for value in values])
    found = distributions.IntDistribution if "int" in kind else distributions.FloatDistribution
    return found(*values, log=kind.startswith("log"))


def _encoded(value: Any, kind: str) -> Any:
    return json.dumps(value) if kind in ("choice", "grid") else value


def by_ranks(sweep: Sweep, rows: list[Row]) -> dict[str, float]:
    """Spearman's correlation without its sign; of a list, how far the mean ranks of its values lie apart."""
    result = _ranks([float(row.best_value or 0.0) for row in rows])
    strength = {path: _strength([row.settings[path] for row in rows], kind, result) for path, (kind, *_) in sweep.domains.items()}
    total = sum(strength.values())
    return {path: value / total if total else 0.0 for path, value in strength.items()}


def _strength(values: list[Any], kind: str, result: np.ndarray) -> float:
    spread = float(result.std())
    if kind in ("choice", "grid"):
        groups = [json.dumps(value) for value in values]
        means = [float(result[[g == group for g in groups]].mean()) for group in groups]
        return float(np.std(means)) / spread
    ranks = _ranks(values)
    return abs(float(np.corrcoef(ranks, result)[0, 1])) if ranks.std() else 0.0


def _ranks(values: list[Any]) -> np.ndarray:
    """Ranks from 0; equal values share their mean rank."""
    array = np.asarray(values, dtype=float)
    return np.array([((array < value).sum() + (array <= value).sum() - 1) / 2 for value in array])
