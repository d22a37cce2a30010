"""Checkpoints exist whole or not at all, are found under every name, and go when nothing names them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from zlib import crc32

import pytest

from hyena_glt.errors import CheckpointError, StorageError
from hyena_glt.training.checkpoint import (
    BEST,
    LATEST,
    CheckpointInfo,
    Progress,
    damage,
    finished,
    newest_whole,
    read_info,
    resolve_checkpoint,
    step_name,
)
from hyena_glt.training.commit import commit, empty_staging_folder, list_part, point, prune


def info_at(step: int, **changes: object) -> CheckpointInfo:
    fields = {"progress": Progress(step=step, tokens=7 * step, best_loss=1.25), "world_size": 2, "zero_stage": 1, "global_rows": 8}
    return CheckpointInfo(**fields | {"data_checksum": "ab"} | changes)


def stage(run: Path, step: int, weights: bytes = b"weights") -> Path:
    """What two ranks have written."""
    folder = empty_staging_folder(run, step, "test")
    (folder / "optimizer").mkdir()
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "optimizer" / "rank_1.pt").write_bytes(b"state")
    list_part(folder, 0, ["model.safetensors"])
    list_part(folder, 1, ["optimizer/rank_1.pt"])
    return folder


def save(run: Path, step: int, weights: bytes = b"weights") -> Path:
    return commit(run, stage(run, step, weights), info_at(step, regular=step % 10 == 0))


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_a_commit_that_failed_behind_the_name_can_be_tried_again(tmp_path):
    staged = stage(tmp_path, 10)
    (tmp_path / "checkpoints" / LATEST).mkdir()
    with pytest.raises(StorageError, match="Is a directory"):
        commit(tmp_path, staged, info_at(10))
    (tmp_path / "checkpoints" / LATEST).rmdir()
    assert commit(tmp_path, staged, info_at(10)) == resolve_checkpoint(tmp_path) and read_info(resolve_checkpoint(tmp_path)) == info_at(10)


def test_names_sort_by_step():
    assert step_name(5000) == "step_00005000"
    assert sorted(map(step_name, (10, 9, 12345678))) == ["step_00000009", "step_00000010", "step_12345678"]


def test_what_was_committed_reads_back_equal(tmp_path):
    staged = stage(tmp_path, 5)
    info = info_at(5, progress=Progress(step=5, tokens=35, best_loss=0.5, best_step=4, loss_scale=65536.0, stopped_by="finished"))
    folder = commit(tmp_path, staged, info)
    assert folder == tmp_path / "checkpoints" / "step_00000005" and read_info(folder) == info
    assert json.loads((folder / "checkpoint.json").read_text())["files"] == {
        "model.safetensors": {"bytes": 7, "crc32": crc32(b"weights")}, "optimizer/rank_1.pt": {"bytes": 5, "crc32": crc32(b"state")},
    }
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.json", "model.safetensors", "optimizer"]
    assert names(tmp_path) == ["latest", "step_00000005"] and (tmp_path / "checkpoints/latest").read_text() == "step_00000005\n"


def test_a_checkpoint_without_workers_has_no_optimizer_state():
    assert info_at(1).has_optimizer and not info_at(0, world_size=0).has_optimizer


def test_a_staged_checkpoint_does_not_exist_until_it_is_committed(tmp_path, monkeypatch):
    save(tmp_path, 5)
    staged = stage(tmp_path, 10)
    warnings: list[str] = []
    assert newest_whole(tmp_path, warnings).name == "step_00000005" and resolve_checkpoint(tmp_path).name == "step_00000005"

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # everything is written, only the rename is missing
        patch.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            commit(tmp_path, staged, info_at(10))
    assert newest_whole(tmp_path, warnings).name == "step_00000005" and resolve_checkpoint(tmp_path).name == "step_00000005"
    assert commit(tmp_path, staged, info_at(10)) == newest_whole(tmp_path, warnings) == resolve_checkpoint(tmp_path)
    assert warnings == []


def test_what_a_crash_left_staged_is_not_committed_with_the_next_try(tmp_path):
    staged = stage(tmp_path, 10)
    (staged / "optimizer" / "rank_3.pt").write_bytes(b"of a run with four workers")
    (staged / "checkpoint.json").write_text("{}")
    folder = save(tmp_path, 10)
    assert read_info(folder) == info_at(10) and not (folder / "optimizer" / "rank_3.pt").exists()


def test_a_commit_replaces_a_checkpoint_of_the_same_step(tmp_path):
    save(tmp_path, 5, b"old weights")
    (tmp_path / "checkpoints/step_00000005/leftover").write_text("x")
    folder = save(tmp_path, 5, b"new")
    assert (folder / "model.safetensors").read_bytes() == b"new" and not (folder / "leftover").exists()
    assert read_info(folder).progress.step == 5


def test_a_bit_that_changed_is_found_by_whoever_reads_the_file(tmp_path):
    folder = save(tmp_path, 5)
    assert damage(folder) is None
    path = folder / "optimizer" / "rank_1.pt"
    path.write_bytes(b"stbte")
    assert newest_whole(tmp_path, []) == folder, "sizes do not tell"
    assert damage(folder) == damage(folder, part=1, parts=2) == f"{path}: its content has changed since it was written"
    assert damage(folder, part=0, parts=2) is None
    path.unlink()
    assert damage(folder) == f"{path}: cannot be read (No such file or directory)"


def test_older_checkpoints_than_a_step(tmp_path):
    for step in (5, 10):
        save(tmp_path, step)
    assert newest_whole(tmp_path, [], before=10).name == "step_00000005" and newest_whole(tmp_path, [], before=5) is None


def test_no_checkpoint_at_all(tmp_path):
    warnings: list[str] = []
    assert newest_whole(tmp_path, warnings) is None and warnings == []


def test_the_newest_whole_checkpoint_passes_over_damaged_ones_with_a_sentence_each(tmp_path):
    for step in (5, 10, 15):
        save(tmp_path, step)
    folder = tmp_path / "checkpoints"
    (folder / "step_00000015" / "model.safetensors").write_bytes(b"wei")
    (folder / "step_00000010" / "optimizer" / "rank_1.pt").unlink()
    warnings: list[str] = []
    assert newest_whole(tmp_path, warnings) == folder / "step_00000005"
    assert warnings == [
        f"passed over a damaged checkpoint: {folder}/step_00000015/model.safetensors: 3 bytes, it was written with 7 bytes",
        f"passed over a damaged checkpoint: {folder}/step_00000010/optimizer/rank_1.pt: missing, it was written with 5 bytes",
    ]
    (folder / "step_00000005" / "checkpoint.json").unlink()
    assert newest_whole(tmp_path, []) is None


@pytest.mark.parametrize(
    "content",
    [None, "", "{", "[]", "null", "3", '"text"', "\xff", '{"files": {}}', '{"files": {}, "progress": {}}',
     '{"files": {}, "progress": {"stepp": 1}, "world_size": 1, "zero_stage": 1, "global_rows": 1, "data_checksum": ""}',
     '{"files": {}, "progress": 3, "world_size": 1, "zero_stage": 1, "global_rows": 1, "data_checksum": ""}'],
)
def test_a_damaged_checkpoint_file(tmp_path, content):
    folder = save(tmp_path, 5)
    path = folder / "checkpoint.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError) as caught:
        read_info(folder)
    assert str(caught.value).startswith(f"{folder} is not a whole checkpoint: checkpoint.json is missing or damaged (")


@pytest.mark.parametrize("name", ["/etc/passwd", "../../config.yaml", "optimizer/../../x.pt"])
def test_a_file_outside_of_the_checkpoint_is_refused(tmp_path, name):
    path = save(tmp_path, 5) / "checkpoint.json"
    path.write_text(path.read_text().replace("model.safetensors", name))
    with pytest.raises(CheckpointError, match=re.escape(f"checkpoint.json is missing or damaged ({name!r} lies outside of it)")):
        read_info(path.parent)


def test_every_path_to_a_checkpoint(tmp_path):
    run = tmp_path / "run"
    for step in (5, 10, 15):
        save(run, step)
    point(run, "epoch_1", step_name(10))
    folder = run / "checkpoints"
    assert resolve_checkpoint(run) == resolve_checkpoint(folder) == folder / "step_00000015", "the latest, as none was evaluated"
    point(run, BEST, step_name(5))
    for path, name in {
        run: "step_00000005", f"{run}/": "step_00000005", folder: "step_00000005", f"{folder}/": "step_00000005",
        folder / LATEST: "step_00000015", f"{folder}/{LATEST}/": "step_00000015", folder / BEST: "step_00000005",
        folder / "epoch_1": "step_00000010", folder / "step_00000010": "step_00000010", f"{folder}/step_00000010/": "step_00000010",
    }.items():
        assert resolve_checkpoint(path) == folder / name, path


def test_where_there_is_no_checkpoint(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for path in ("gone", "run", "run/checkpoints"):
        with pytest.raises(CheckpointError) as caught:
            resolve_checkpoint(tmp_path / path)
        assert str(caught.value) == (
            f"no checkpoint at {tmp_path / path}: it is not a step folder (with checkpoint.json), not a pointer file such as latest, "
            f"and has neither checkpoints/best_model nor checkpoints/latest"
        )


def test_a_pointer_to_nothing(tmp_path):
    save(tmp_path, 5)
    point(tmp_path, BEST, step_name(6))
    with pytest.raises(CheckpointError, match=r"best_model names 'step_00000006', and there is no such checkpoint beside it$"):
        resolve_checkpoint(tmp_path)


def test_a_file_that_is_no_pointer(tmp_path):
    folder = save(tmp_path, 5, weights=b"\xff\xfe" * 1000)
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(folder / "model.safetensors")
    assert str(caught.value) == (
        f"{folder}/model.safetensors is not a pointer file such as latest; name one, or a run folder, or a step folder"
    )


@pytest.mark.parametrize("name", ["step_00000005/../../elsewhere", "../step_00000005", "step_5", "/step_00000005"])
def test_a_pointer_cannot_lead_out_of_its_folder(tmp_path, name):
    save(tmp_path, 5)
    point(tmp_path, LATEST, name)
    with pytest.raises(CheckpointError, match=r"latest is not a pointer file such as latest; name one, or a run folder, or a step folder$"):
        resolve_checkpoint(tmp_path)


def test_pruning_keeps_the_newest_regular_checkpoints_and_all_that_a_pointer_names(tmp_path):
    for step in (10, 13, 20, 27, 30, 34, 40, 43):
        save(tmp_path, step)
    point(tmp_path, BEST, step_name(13))
    point(tmp_path, "epoch_1", step_name(20))
    stage(tmp_path, 50)
    prune(tmp_path, keep=2)
    steps = [13, 20, 30, 40, 43]  # best, an epoch, the two newest regular ones, the latest
    assert names(tmp_path) == sorted([BEST, "epoch_1", LATEST, *map(step_name, steps)])
    point(tmp_path, BEST, step_name(40))
    prune(tmp_path, keep=1)
    assert names(tmp_path) == sorted([BEST, "epoch_1", LATEST, *map(step_name, [20, 40, 43])])


def test_pruning_without_a_limit_keeps_every_regular_checkpoint(tmp_path):
    for step in (10, 13, 20, 30):
        save(tmp_path, step)
    stage(tmp_path, 40)
    prune(tmp_path, keep=None)
    assert names(tmp_path) == [LATEST, *map(step_name, (10, 20, 30))]


def test_an_end_is_marked_and_nothing_else():
    progress = Progress(step=3, tokens=5)
    assert finished(progress, "early_stopping") == Progress(step=3, tokens=5, stopped_by="early_stopping")
