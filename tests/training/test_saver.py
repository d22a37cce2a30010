"""Checkpoints are written behind the training: whole or not at all, whichever rank is late, and however long the storage refuses."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from threading import Event

import pytest

from hyena_glt import files
from hyena_glt.errors import ClusterError, HyenaError, StorageError
from hyena_glt.training.checkpoint import BEST, CHECKPOINTS, CheckpointInfo, Progress, damage, newest_whole, read_info, resolve_checkpoint
from hyena_glt.training.orders import OWNER_FILE
from hyena_glt.training.saver import Saver, Wanted


class Text:
    """One rank's file, which appears when it is let go."""

    def __init__(self, name: str, *, after: Event | None = None, errors: list[Exception] | None = None) -> None:
        self.name, self.after, self.errors = name, after, errors or []

    def write(self, folder: Path) -> list[str]:
        if self.errors:
            raise self.errors.pop(0)
        if self.after:
            assert self.after.wait(10)
        (folder / self.name).write_text(self.name)
        return [self.name]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / OWNER_FILE).write_text("now")
    monkeypatch.setattr(files, "FIRST_PAUSE_S", 0.02)
    return tmp_path


def saver(run: Path, rank: int = 0, world_size: int = 1, *, token: str = "now", retry_s: float = 5.0) -> Saver:
    return Saver(run, token, rank, world_size, retry_s)


def wanted(step: int, **changes: object) -> Wanted:
    info = CheckpointInfo(progress=Progress(step=step), world_size=2, zero_stage=1, global_rows=8, data_checksum="ab")
    return Wanted(**{"info": info, "texts": {}} | changes)


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_is_there_when_the_last_rank_has_written(run: Path) -> None:
    late = Event()
    ranks = [saver(run, rank, 2) for rank in range(2)]
    ranks[0].begin(Text("a"), wanted(8, texts={"config.yaml": "x: 1\n"}, pointers=(BEST,)))
    ranks[1].begin(Text("b", after=late), wanted(8))
    time.sleep(0.1)
    assert newest_whole(run, []) is None
    late.set()
    for rank in ranks:
        rank.wait()
    folder = newest_whole(run, [])
    assert folder is not None and damage(folder) is None and read_info(folder).progress.step == 8 and resolve_checkpoint(run) == folder
    assert {path.name: path.read_text() for path in folder.iterdir() if path.name != "checkpoint.json"} == {
        "a": "a", "b": "b", "config.yaml": "x: 1\n",
    }
    (report,) = ranks[0].take_reports()
    assert report["kind"] == "save" and report["step"] == 8 and report["writing_s"] >= 0.1
    assert ranks[0].take_reports() == ranks[1].take_reports() == []


def test_each_commit_prunes(run: Path) -> None:
    one = saver(run)
    for step in (1, 2, 3):
        one.begin(Text("a"), wanted(step, keep=2))
        one.wait()
    assert sorted(path.name for path in (run / CHECKPOINTS).glob("*step*")) == ["step_00000002", "step_00000003"]


def test_what_the_storage_refuses_is_tried_again_with_one_warning(run: Path) -> None:
    one = saver(run)
    one.begin(Text("a", errors=[full(), RuntimeError("file write failed"), full()]), wanted(8))
    one.wait()
    assert newest_whole(run, []) is not None
    warning, saved = one.take_reports()
    assert saved["kind"] == "save" and warning == {
        "kind": "warning", "step": 8,
        "message": f"the checkpoint of step 8 could not be written in {run} ([Errno 28] No space left on device); trying again for 5 s",
    }


def test_a_storage_that_stays_away_ends_the_run_with_a_sentence(run: Path) -> None:
    one = saver(run, retry_s=0.1)
    one.begin(Text("a", errors=[full()] * 100), wanted(8))
    with pytest.raises(StorageError) as caught:
        one.wait()
    assert str(caught.value) == (
        f"the checkpoint of step 8 could not be written in {run} ([Errno 28] No space left on device) for 0.1 s; make room or mend the "
        f"storage, and run the same command to go on from the checkpoint before it"
    )
    with pytest.raises(StorageError):  # whenever it is asked again
        one.check()


def test_a_fault_of_the_run_itself_is_not_tried_again(run: Path) -> None:
    one, text = saver(run), Text("a", errors=[ClusterError("not finite"), full()])
    one.begin(text, wanted(8))
    with pytest.raises(HyenaError, match="^not finite$"):
        one.wait()
    assert len(text.errors) == 1


def test_a_worker_of_an_earlier_start_commits_nothing(run: Path) -> None:
    early = saver(run, token="before")
    early.begin(Text("a"), wanted(8))
    early.wait()
    assert newest_whole(run, []) is None and early.take_reports() == []
    now = saver(run)
    now.begin(Text("b"), wanted(8))
    now.wait()
    folder = newest_whole(run, [])
    assert folder is not None and not (folder / "a").exists() and not list((run / CHECKPOINTS).glob("*.partial"))


def test_closing_gives_up_waiting(run: Path) -> None:
    one = saver(run, 0, 2)
    one.begin(Text("a"), wanted(8))
    one.close()
    assert newest_whole(run, []) is None
