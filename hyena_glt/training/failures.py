"""What a failed start of a run means: a sentence of ours, a mistake that stays, memory that ran out, or a worker that was lost.

Runs on the driver.
"""

from __future__ import annotations

from collections.abc import Iterator

import ray.train
from ray.exceptions import RayError

from ..errors import HyenaError

MISTAKES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError, TypeError, ValueError,
)
"""What a worker raises for a mistake in code or settings, which a restart would meet again."""


def raise_ours(error: BaseException) -> None:
    """Raise the HyenaError inside, if there is one: it is a sentence for the user, and a retry would not help."""
    for cause in _causes(error):
        if isinstance(cause, HyenaError):
            raise cause from None


def may_pass(error: BaseException) -> bool:
    """Whether a restart may help.

    Ray, torch and the network report a lost process, node, device or connection by many classes, so the failures that stay are named
    instead: mistakes in code.
    """
    return not any(isinstance(cause, MISTAKES) and not isinstance(cause, RayError) for cause in _causes(error))


def is_out_of_memory(error: BaseException) -> bool:
    """On a GPU, or on a CPU where the allocator is refused memory; the kernel's killer shows as a lost worker instead."""
    return any(
        type(cause).__name__ == "OutOfMemoryError" or isinstance(cause, MemoryError) or "not enough memory" in str(cause)
        for cause in _causes(error)
    )


def reason(error: BaseException) -> str:
    """What to call it in a line."""
    if isinstance(error, ray.train.WorkerGroupError):
        rank, failure = next(iter(error.worker_failures.items()))
        return f"worker {rank}: {_first_line(failure)}"
    return _first_line(getattr(error, "controller_failure", error))


def _first_line(failure: BaseException) -> str:
    text = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {text[0] if text else ''}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that led to it, those of single workers included."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        queue += [current.__cause__, getattr(current, "cause", None), getattr(current, "controller_failure", None)]
        failures = getattr(current, "worker_failures", None) or {}
        queue += [failures[rank] for rank in sorted(failures, reverse=True)]  # rank 0's first: what all meet, it alone may name
