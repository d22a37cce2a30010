"""The learning rate as a function of the step. Pure arithmetic, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from ..config.recipe import ScheduleKind


def learning_rate(
    step: int, *, peak: float, floor: float, warmup_steps: int, total_steps: int, schedule: ScheduleKind = "cosine",
    cooldown_steps: int | None = None,
) -> float:
    """Rate for the optimizer step after `step` done ones: linear warm-up to `peak`, then `schedule` down to `floor`.

    With S = warmup_steps, T = total_steps, t = (step - S) / (T - S): peak * (step + 1) / S below S, then

    constant      peak
    cosine        floor + (peak - floor) * (1 + cos(pi * t)) / 2        (Loshchilov & Hutter, 2017)
    linear        peak + (floor - peak) * t
    inverse_sqrt  max(floor, peak * sqrt(S / step)), S at least 1       (Vaswani et al., 2017)
    wsd           peak, and in the last `cooldown_steps` (default: a fifth of T) linearly down to floor   (Hu et al., 2024)
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    share = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    match schedule:
        case "constant":
            return peak
        case "cosine":
            return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * share))
        case "linear":
            return peak + (floor - peak) * share
        case "inverse_sqrt":
            start = max(1, warmup_steps)
            return max(floor, peak * math.sqrt(start / max(start, step)))
    cooldown = min(math.ceil(total_steps / 5) if cooldown_steps is None else cooldown_steps, max(1, total_steps - warmup_steps))
    return peak + (floor - peak) * min(1.0, max(0.0, 1.0 - (total_steps - step) / cooldown))
