"""The errors that a user may see; each message says what was found, where, and what to do."""

from __future__ import annotations


class HyenaError(Exception):
    """Base of every error that reaches a user as a sentence, without a traceback."""

    exit_status = 1
    """What a command ends with."""


class ConfigError(HyenaError):
    """Settings that cannot work; `problems` holds one sentence for each."""

    exit_status = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DataError(HyenaError):
    """Input sequences or preprocessed data that cannot be used as they are."""


class StorageError(DataError):
    """A file or object that could not be read or written this time (a full disk, a store that is silent); what was written stays."""


class CheckpointError(HyenaError):
    """A run folder or checkpoint that is damaged or belongs to something else."""


class ClusterError(HyenaError):
    """Ray, its workers or their devices failed in a way that retrying did not cure."""


class JobError(ClusterError):
    """A job on a cluster that did not end well; whoever waits for it ends with its exit status."""

    def __init__(self, problem: str, exit_status: int) -> None:
        super().__init__(problem)
        self.exit_status = exit_status
