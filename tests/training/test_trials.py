"""What a sweep folder holds of a trial: written and read back, and no way out of the folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hyena_glt.errors import CheckpointError
from hyena_glt.training.trials import Trial, change_trial, read_trial, read_trials, write_trial

TRIAL = Trial(id="007", settings={"training.learning_rate": 1e-3})


def test_a_trial_reads_back_as_it_was_changed(tmp_path: Path) -> None:
    write_trial(tmp_path, TRIAL)
    changed = change_trial(tmp_path, "007", status="failed", error="no room")
    assert read_trials(tmp_path) == [changed] == [Trial(id="007", settings=TRIAL.settings, status="failed", error="no room")]


@pytest.mark.parametrize(("file", "content", "problem"), [
    ("007", '{"id": "../../elsewhere", "settings": {}}', "it is called '../../elsewhere'"),
    ("007", '{"id": "008", "settings": {}}', "it is called '008'"),
    ("0<b>", '{"id": "0<b>", "settings": {}}', "it is called '0<b>'"),
    ("007", '{"id": "007"', "Expecting ',' delimiter"),
])
def test_a_file_that_is_not_the_trials_own(tmp_path: Path, file: str, content: str, problem: str) -> None:
    """A trial trains in the folder of its name, and pages show it."""
    write_trial(tmp_path, TRIAL)
    path = tmp_path / "trials" / f"{file}.json"
    path.write_text(content)
    sentence = re.escape(f"{path} is not the file of a trial ({problem}")
    for read in (lambda: read_trial(tmp_path, file), lambda: read_trials(tmp_path)):
        with pytest.raises(CheckpointError, match=f"^{sentence}.*; move the sweep folder away to start anew$"):
            read()
