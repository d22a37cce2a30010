"""A run takes over another's checkpoints, and neither notices what the other does later."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyena_glt.errors import CheckpointError
from hyena_glt.training.adopt import adopt
from hyena_glt.training.checkpoint import BEST, CheckpointInfo, Progress, newest_whole, read_info, resolve_checkpoint, step_name
from hyena_glt.training.commit import commit, empty_staging_folder, list_part, point, prune


def save(run: Path, step: int, content: str, best: int | None = None) -> None:
    staged = empty_staging_folder(run, step, "test")
    (staged / "optimizer").mkdir()
    (staged / "optimizer/rank0").write_text(content)
    (staged / "model.safetensors").write_text(content)
    progress = Progress(step=step, tokens=step, best_step=best)
    list_part(staged)
    commit(run, staged, CheckpointInfo(progress=progress, world_size=1, zero_stage=1, global_rows=8, data_checksum=""))
    if best == step:
        point(run, BEST, step_name(step))


def test_the_donors_checkpoint_and_best_replace_the_runs(tmp_path: Path) -> None:
    run, donor = tmp_path / "run", tmp_path / "donor"
    for step in (2, 4, 6):
        save(run, step, "mine", best=step)
        save(donor, step, f"donor {step}", best=2)
    adopt(run, donor, 4)
    found = newest_whole(run, [])
    assert found == run / "checkpoints" / step_name(4) and (found / "optimizer/rank0").read_text() == "donor 4"
    assert read_info(found).progress == Progress(step=4, tokens=4, best_step=2)
    assert (resolve_checkpoint(run) / "model.safetensors").read_text() == "donor 2"
    assert {path.name for path in (run / "checkpoints").glob("step_*")} == {step_name(2), step_name(4)}


def test_neither_run_sees_the_others_later_saves_and_prunings(tmp_path: Path) -> None:
    run, donor = tmp_path / "run", tmp_path / "donor"
    save(run, 1, "mine")
    save(donor, 2, "donor", best=2)
    adopt(run, donor, 2)
    save(run, 2, "trained again")
    assert (donor / "checkpoints" / step_name(2) / "model.safetensors").read_text() == "donor"
    save(donor, 3, "on", best=3)
    prune(donor, keep=1)
    assert not (donor / "checkpoints" / step_name(2)).exists()
    assert (run / "checkpoints" / step_name(2) / "model.safetensors").read_text() == "trained again"


def test_a_damaged_donor_is_refused_and_the_run_is_as_before(tmp_path: Path) -> None:
    run, donor = tmp_path / "run", tmp_path / "donor"
    save(run, 1, "mine", best=1)
    save(donor, 2, "donor")
    (donor / "checkpoints" / step_name(2) / "model.safetensors").write_text("x")
    with pytest.raises(CheckpointError, match="it was written with"):
        adopt(run, donor, 2)
    assert (resolve_checkpoint(run) / "model.safetensors").read_text() == "mine"
