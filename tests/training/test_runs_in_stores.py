"""A run whose folder is in an object store, real servers on loopback: it trains, resumes and ends as it does on a disk."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

from hyena_glt.config import load_config
from hyena_glt.data.storage import Url, download, list_files, names_in, read_bytes, remove_file, write_bytes
from hyena_glt.errors import CheckpointError, ClusterError, StorageError
from hyena_glt.inference import load_model
from hyena_glt.training import desk, loop, orders, saver
from hyena_glt.training.checkpoint import COMMIT_FILE, WEIGHTS_FILE, newest_whole, read_info, resolve_checkpoint, step_name
from hyena_glt.training.metrics import METRICS_FILE, last_reports, read_reports
from hyena_glt.training.orders import LastOrder, Orders
from hyena_glt.training.progress import progress_bar
from hyena_glt.training.watchdog import stalled_ranks
from hyena_glt.training.worker import Worker
from pipelines.evaluate import evaluate
from pipelines.pretrain import pretrain
from pipelines.report import report
from tests import stores
from tests.cluster.head import Proxy
from tests.interrupted_run import Command
from tests.tiny_run import write_lambda_data
from tests.training.in_process import SETTINGS, losses, run
from tests.waiting import wait_until

s3, google, s3_bucket, google_bucket = stores.s3, stores.google, stores.s3_bucket, stores.google_bucket  # fixtures
bucket, any_bucket = stores.s3_bucket, stores.any_bucket
GOING_ON = ["training.min_learning_rate=1e-2", "logging.save_interval=2"]
"""Settings of a run that may stop at any step."""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("process_group")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lambda as windows of 64 bases."""
    return write_lambda_data(tmp_path_factory.mktemp("data") / "lambda", {"kind": "char"}, max_length=64)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The disk of this node, which holds nothing afterwards."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(saver, "STORE_POLL_S", 0.05)
    yield folder
    assert not list(folder.glob("hyena-glt-*")), "something is left on the node"


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory, process_group: None) -> Path:
    """The same run on a disk."""
    folder = tmp_path_factory.mktemp("unbroken")
    run(data, folder, *GOING_ON)
    return folder


def weights(of: Url | Path) -> bytes:
    return read_bytes(resolve_checkpoint(of / "checkpoints" / "latest") / WEIGHTS_FILE)


def change_byte(item: Url) -> None:
    content = bytearray(read_bytes(item))
    content[len(content) // 2] ^= 1
    write_bytes(item, bytes(content))


def warnings(run_folder: Url) -> list[str]:
    return [each["message"] for each in read_reports(run_folder / METRICS_FILE) if each["kind"] == "warning"]


def starts(run_folder: Url) -> list[int]:
    return [each["step"] for each in read_reports(run_folder / METRICS_FILE) if each["kind"] == "start"]


def test_it_stops_and_goes_on_as_on_a_disk(data: Path, any_bucket: Url, unbroken: Path) -> None:
    folder = any_bucket / "runs/a"
    write_bytes(folder / "checkpoints/step_00000001/model.safetensors", b"of a start that was killed")
    write_bytes(folder / "checkpoints/.step_00000001.0.partial/rank_00001.json", b"{}")
    run(data, folder, *GOING_ON, "training.max_steps=4", "logging.use_tensorboard=true")
    assert names_in(folder / "checkpoints") == ["best_model", "latest", "step_00000002", "step_00000004"]
    run(data, folder, *GOING_ON, "logging.keep_checkpoints=1")
    names = names_in(folder / "checkpoints")
    best = read_bytes(folder / "checkpoints" / "best_model").decode().strip()
    assert names == ["best_model", "latest", *sorted({best, "step_00000006"})] and warnings(folder) == []
    kept = {path.relative_to(unbroken / "checkpoints/step_00000006").as_posix() for path in
            (unbroken / "checkpoints/step_00000006").rglob("*") if path.is_file()}
    assert {str(item).partition("step_00000006/")[2] for item in list_files(folder / "checkpoints/step_00000006")} == kept
    assert starts(folder) == [0, 4] and losses(folder) == losses(unbroken) and weights(folder) == weights(unbroken)
    assert best == (unbroken / "checkpoints" / "best_model").read_text().strip()
    assert {item.parent.name for item in list_files(folder / "logs")} == {"logs"} and stalled_ranks(folder) == []


@pytest.mark.parametrize(("harm", "problem"), [
    (change_byte, "its content has changed since it was written"),
    pytest.param(remove_file, "missing, it was written with {:,} bytes", marks=pytest.mark.long),
    pytest.param(lambda item: write_bytes(item, b"short"), "5 bytes, it was written with {:,} bytes", marks=pytest.mark.long),
])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(data: Path, bucket: Url, unbroken: Path, harm, problem: str) -> None:
    run(data, bucket / "a", *GOING_ON, "training.max_steps=4")
    shard = next(item for item in list_files(bucket / "a/checkpoints/step_00000004") if item.name.endswith("optim_states.pt"))
    expected = f"passed over a damaged checkpoint: {shard}: {problem.format(len(read_bytes(shard)))}"
    harm(shard)
    run(data, bucket / "a", *GOING_ON)
    assert warnings(bucket / "a") == [expected]
    assert starts(bucket / "a")[0] == 0 and starts(bucket / "a")[1] < 4 and weights(bucket / "a") == weights(unbroken)
    assert read_info(bucket / "a/checkpoints/step_00000004").progress.step == 4, "it was written anew"


def test_a_store_that_goes_away_is_waited_for(
    data: Path, bucket: Url, unbroken: Path, scratch: Path, s3, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(int(s3.get_host_and_port()[1]))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)

    def go_away() -> None:
        while not list(scratch.glob("*/model.safetensors")):  # of the first checkpoint
            time.sleep(0.001)
        proxy.is_away = True
        proxy.cut()
        time.sleep(9)  # longer than the client itself tries again
        proxy.is_away = False

    away = threading.Thread(target=go_away)
    away.start()
    run(data, bucket / "a", *GOING_ON)
    away.join()
    proxy.close()
    monkeypatch.undo()
    sentence = f"the checkpoint of step 2 could not be written in {bucket}/a ({bucket}/a/"
    assert warnings(bucket / "a") and all(message.startswith(sentence) for message in warnings(bucket / "a"))
    assert "the store cannot be reached; check the network" in warnings(bucket / "a")[0]
    assert warnings(bucket / "a")[0].endswith("; trying again for 600 s")
    assert weights(bucket / "a") == weights(unbroken) and losses(bucket / "a") == losses(unbroken)


@pytest.mark.long
def test_a_store_that_stays_away_ends_the_run_with_a_sentence(
    data: Path, bucket: Url, scratch: Path, s3, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(int(s3.get_host_and_port()[1]))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)

    def go_away() -> None:
        while not list(scratch.glob("*/model.safetensors")):
            time.sleep(0.001)
        proxy.is_away = True
        proxy.cut()

    threading.Thread(target=go_away).start()
    with pytest.raises(StorageError) as caught:
        run(data, bucket / "a", *GOING_ON, "logging.save_retry_s=0")
    proxy.close()
    sentence = str(caught.value)
    assert sentence.startswith(f"the checkpoint of step 2 could not be written in {bucket}/a ({bucket}/a/")
    assert "the store cannot be reached; check the network" in sentence and sentence.endswith(
        "for 0 s; make room or mend the storage, and run the same command to go on from the checkpoint before it"
    )


def test_what_reads_a_run_reads_it_from_the_store(data: Path, bucket: Url, tmp_path: Path, unbroken: Path) -> None:
    folder = bucket / "runs/a"
    for path in unbroken.rglob("*"):
        if path.is_file():
            write_bytes(folder / path.relative_to(unbroken).as_posix(), path.read_bytes())
    write_bytes(folder / "config.yaml", read_bytes(resolve_checkpoint(folder) / "config.yaml"))
    for path in (folder, folder / "checkpoints", folder / "checkpoints/best_model", resolve_checkpoint(folder)):
        assert resolve_checkpoint(str(path)) == folder / "checkpoints" / resolve_checkpoint(unbroken).name
    loaded, wanted = load_model(str(folder)), load_model(unbroken)
    assert all(torch.equal(loaded.model.state_dict()[name], tensor) for name, tensor in wanted.model.state_dict().items())
    measured = evaluate(str(folder), eval_data=str(data))
    assert measured["evaluation_file"] == f"{folder}/evaluation.json" and measured["checkpoint"] == str(resolve_checkpoint(folder))
    assert measured["metrics"] == evaluate(str(unbroken), eval_data=str(data))["metrics"]
    told = report(f"{folder}/checkpoints/latest", output_dir=str(tmp_path / "page"))
    page = (tmp_path / "page/report.html").read_text()
    assert told["run"] == str(folder) and f"a copy of {folder}/config.yaml" in page and "<li>metrics.jsonl</li>" in page

    place = resolve_checkpoint(folder)
    with pytest.raises(CheckpointError, match=f"^{place}/{WEIGHTS_FILE} belongs to another architecture"):
        load_model(str(folder), overrides=["model.num_layers=3"])
    change_byte(place / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=f"^{place}/{WEIGHTS_FILE}: its content has changed .*; take another checkpoint of the run$"):
        load_model(str(folder))
    listed = json.loads(read_bytes(place / COMMIT_FILE))
    listed["files"]["../../x"] = listed["files"].pop(WEIGHTS_FILE)
    write_bytes(place / COMMIT_FILE, json.dumps(listed).encode())
    with pytest.raises(CheckpointError, match=r"is not a whole checkpoint: .*'\.\./\.\./x' lies outside of it"):
        read_info(place)


def test_nothing_and_half_of_something_is_no_checkpoint(bucket: Url) -> None:
    with pytest.raises(CheckpointError, match=f"^no checkpoint at {bucket}/a: it is not a step folder"):
        resolve_checkpoint(f"{bucket}/a")
    said: list[str] = []
    assert newest_whole(bucket / "a", said) is None
    write_bytes(bucket / "a/checkpoints/step_00000003/model.safetensors", b"w")
    assert newest_whole(bucket / "a", said) is None and said == []
    write_bytes(bucket / "a/checkpoints/latest", b"step_00000003\n")
    with pytest.raises(CheckpointError, match=f"{bucket}/a/checkpoints/latest names 'step_00000003', and there is no such checkpoint"):
        resolve_checkpoint(f"{bucket}/a")


def test_first_weights_and_a_run_from_them(data: Path, bucket: Url) -> None:
    settings = ["model.hidden_size=16", "model.num_layers=2", "model.mixers=[se,li]", "model.max_position_embeddings=64",
                "model.num_attention_heads=2", "tasks.causal_lm.weight=1", "tokenization.kind=char", f"training.output_dir={bucket}/a"]
    made = pretrain(load_config(None, settings), init_only=True)
    assert made["checkpoint"] == f"{bucket}/a/checkpoints/{step_name(0)}" and names_in(bucket / "a") == ["checkpoints", "config.yaml"]
    assert names_in(bucket / "a/checkpoints") == ["latest", "step_00000000"]
    run(data, bucket / "b", "training.max_steps=1", "training.learning_rate=1e-30", "training.seed=1", f"training.init_from={bucket}/a")
    first, after = (load_model(f"{bucket}/{name}").model.state_dict() for name in "ab")
    assert all((first[name] - after[name]).abs().max() < 1e-20 for name in first)


def test_orders_are_read_beside_the_training(bucket: Url, s3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "STORE_POLL_S", 0.05)
    given = Orders(bucket / "a")
    worker = Worker(0, 1, torch.device("cpu"), bucket / "a", given.start())
    assert not worker.stop_requested()
    given.stop()
    wait_until(worker.stop_requested, within_s=10)

    last = LastOrder(bucket / "a", "other")
    assert last.get() == ("other", "")
    wait_until(lambda: last.get() == (worker.token, "stop"), within_s=10)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert last.get() == (worker.token, "stop")
    Orders(bucket / "a").start()
    with pytest.raises(ClusterError, match=f"^{bucket}/a was taken over by a later start of this run$"):
        wait_until(lambda: worker.stop_requested() is None, within_s=10)


def test_a_start_that_was_taken_over_stores_nothing_more(data: Path, bucket: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while it trains on, not knowing yet, nor when it ends: the metrics are then the later start's."""
    folder, original, later = bucket / "a", loop._accumulate, Orders(bucket / "a")
    monkeypatch.setattr(desk, "STORE_S", 0.05)
    refused = []

    def look(run: Url, token: str) -> None:
        try:
            orders.require_owner(run, token)
        except ClusterError as error:
            refused.append(error)
            raise

    monkeypatch.setattr(desk, "require_owner", look)

    def there_is_something_to_store(of: loop.Run) -> None:
        with (of.desk.folder / METRICS_FILE).open("ab") as metrics:
            metrics.write(b"\n")

    def be_taken_over(of: loop.Run, *rest: object) -> bool:
        if of.progress.step == 4:
            later.start()
            there_is_something_to_store(of)
            wait_until(lambda: refused, within_s=10)  # until then a write may be under way whose look came before: nothing is locked
            write_bytes(folder / METRICS_FILE, b'{"kind": "start", "step": 3}\n')
            for _ in range(10):
                there_is_something_to_store(of)
                time.sleep(0.1)
        return original(of, *rest)

    monkeypatch.setattr(loop, "_accumulate", be_taken_over)
    with pytest.raises(ClusterError, match=f"^{folder} was taken over by a later start of this run$"):
        run(data, folder)
    assert read_reports(folder / METRICS_FILE) == [{"kind": "start", "step": 3}]
    assert later.owned()


def test_the_driver_shows_what_the_store_holds(bucket: Url, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = {"kind": "train", "step": 20, "total_steps": 40, "loss": 1.0, "bits_per_base": 1.5, "tokens_per_s": 1e4, "elapsed_s": 8.0}
    write_bytes(bucket / "a" / METRICS_FILE, (json.dumps({**train, "step": 10}) + "\n").encode())
    with progress_bar(bucket / "a", total_steps=40):
        content = read_bytes(bucket / "a" / METRICS_FILE) + json.dumps(train).encode() + b'\n{"cut'
        write_bytes(bucket / "a" / METRICS_FILE, content)
        write_bytes(bucket / "a/stacks/rank_2.txt", b"File ...")
    said = capsys.readouterr().err
    assert "step 20/40: 1.5000 bits/base" in said and "step 10/40" not in said
    assert f"no step from worker 2 for cluster.stall_timeout_s; stacks in {bucket}/a/stacks" in said
    download(bucket / "a" / METRICS_FILE, tmp_path / "copy")
    assert last_reports(tmp_path / "copy") == last_reports(bucket / "a" / METRICS_FILE) == {"train": train}


def test_a_worker_that_stands_still_is_known_in_the_store(data: Path, bucket: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "STORE_S", 0.1)
    write_bytes(bucket / "a/stacks/rank_0.txt", b"of an earlier start")
    original, seen = loop._accumulate, []

    def hang(of: loop.Run, *rest: object) -> bool:
        seen.append(stalled_ranks(bucket / "a"))
        if of.progress.step == 2:
            time.sleep(1.5)
            seen.append(stalled_ranks(bucket / "a"))
        return original(of, *rest)

    monkeypatch.setattr(loop, "_accumulate", hang)
    run(data, bucket / "a", "cluster.stall_timeout_s=0.5", "training.max_steps=3")
    assert seen == [[], [], [], [0]] and b"in hang" in read_bytes(bucket / "a/stacks/rank_0.txt")


def words_of(data: Path, run_folder: Url, *settings: str) -> list[str]:
    """The settings of `unbroken` with others in a command."""
    given = [
        *SETTINGS, *GOING_ON, f"data.train_path={data}", f"data.val_path={data}", f"training.output_dir={run_folder}", "cluster.num_cpus=2",
        "tasks.causal_lm.weight=1", *settings,
    ]
    return list({setting.split("=")[0]: setting for setting in given}.values())


@pytest.fixture
def ray_beside(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a cluster use the node's disk too; Ray itself stays where its sockets' names are short enough."""
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.setenv("TMPDIR", str(scratch))


@pytest.mark.long
@pytest.mark.usefixtures("ray_beside")
def test_two_workers_on_ray(data: Path, bucket: Url, tmp_path: Path, unbroken: Path) -> None:
    folder = bucket / "runs/a"
    words = words_of(data, folder, "cluster.train_workers=2", "training.batch_size=2", "logging.use_tensorboard=true")
    result = Command(["pretrain", *words], tmp_path).result()
    assert (result["status"], result["run"], result["steps"]) == ("finished", str(folder), 6)
    assert result["checkpoint"] == f"{folder}/checkpoints/step_00000006" and names_in(folder) == [
        ".owner", "checkpoints", "config.yaml", "environment.json", "logs", METRICS_FILE,
    ]
    assert read_info(resolve_checkpoint(folder)).world_size == 2 and losses(folder) == pytest.approx(losses(unbroken), abs=1e-4)
    shards = [item for item in list_files(resolve_checkpoint(folder)) if item.name.endswith("optim_states.pt")]
    assert len(shards) == 2 and "step 6/6" in (tmp_path / "stderr").read_text()


@pytest.mark.long
@pytest.mark.usefixtures("ray_beside")
def test_one_worker_goes_on_where_two_were_on_ray(data: Path, bucket: Url, tmp_path: Path, unbroken: Path) -> None:
    for workers, steps in ((2, 4), (1, 6)):
        settings = f"cluster.train_workers={workers}", "training.batch_size=2", f"training.max_steps={steps}"
        Command(["pretrain", *words_of(data, bucket / "a", *settings)], tmp_path).result()
    assert starts(bucket / "a") == [0, 4] and losses(bucket / "a") == pytest.approx(losses(unbroken), abs=1e-4)
    assert not [item for item in list_files(bucket / "a") if "universal" in item.key], "it is made of the node's copy"
    planned = Command(["pretrain", "--dry-run", *words_of(data, bucket / "b")], tmp_path).result()
    assert planned["probe_steps"] == 20 and planned["estimated_s"] > 0 and names_in(bucket) == ["a"], "the probe leaves nothing"
