"""The `hyena-glt` command: parse, load the settings, call one pipeline, print its result as one line of JSON.

Heavy imports stand inside the commands, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import ConfigError, HyenaError

if TYPE_CHECKING:
    from cluster.parcel import Job

    from .config import Config

Result = dict[str, Any]
_OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.\w+)*=")


@dataclass(frozen=True, slots=True)
class Flag:
    """An option of a command; with `sets` it is another way to write that setting."""

    name: str
    help: str
    sets: str | None = None
    choices: tuple[str, ...] | None = None
    is_switch: bool = False
    """Whether it stands alone, without a value."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command: what it says of itself, its one argument (None: it takes settings only) and flags, and what it runs."""

    help: str
    run: Callable[[Namespace], Result | str]
    argument: Flag
    flags: tuple[Flag, ...] = ()
    takes_settings: bool = True
    takes_command: bool = False
    """Whether another command follows it, behind `--`."""
    second: Flag | None = None
    """A second argument, if it takes one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 1 when the run failed, 2 for bad usage or settings, 130 when it was interrupted.
    """
    _log_to_stderr()
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except HyenaError as error:
        for problem in getattr(error, "problems", (str(error),)):
            print(f"error: {problem}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _main(argv: list[str]) -> int:
    if argv[:1] in ([], ["-h"], ["--help"]) or argv in (["config"], ["config", "-h"], ["config", "--help"]):
        print(_overview())
        return 0 if argv[-1:] in (["-h"], ["--help"]) else 2
    if argv[0] == "--version":
        print(__version__)
        return 0
    name, rest = _split_command(argv)
    args = _parse(name, rest)
    # Libraries print where they like; standard output is kept for the result.
    with contextlib.redirect_stdout(sys.stderr):
        result = COMMANDS[name].run(args)
    print(result if isinstance(result, str) else json.dumps(result))
    return _status(result)


def _status(result: Result | str) -> int:
    if isinstance(result, str):
        return 0
    return 130 if result.get("status") == "interrupted" else 1 if result.get("damage") or result.get("breaks") else 0


def _log_to_stderr() -> None:
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    for package in ("hyena_glt", "pipelines", "cluster"):
        logging.getLogger(package).setLevel(logging.INFO)


# Usage


def _overview() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items())
    return (
        "usage: hyena-glt COMMAND [CONFIG] [section.key=value ...]\n\n"
        f"Pretrain genomic language models.\n\n{commands}\n\n"
        "CONFIG is a YAML file, or the name of a shipped one. `hyena-glt COMMAND --help` lists a command's flags;\n"
        "`hyena-glt config show` lists every setting with its default."
    )


def _split_command(argv: list[str]) -> tuple[str, list[str]]:
    words = 2 if argv[0] == "config" else 1
    name, rest = " ".join(argv[:words]), argv[words:]
    if name not in COMMANDS:
        raise ConfigError(f"unknown command {name}" + (_suggest(name, list(COMMANDS)) or f"; there are {', '.join(COMMANDS)}"))
    return name, rest


class _Parser(argparse.ArgumentParser):
    """Bad usage is a ConfigError, with the nearest flag."""

    def error(self, message: str) -> NoReturn:
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        unknown = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
        hint = _suggest(unknown[0], flags) if "unrecognized" in message and unknown else ""
        raise ConfigError(message + (hint or f"; see `{self.prog} --help`"))


def _suggest(found: str, names: list[str]) -> str:
    from .config.settings import suggest

    return suggest(found, names)


def _parse(name: str, argv: list[str]) -> Namespace:
    """The parsed line: `argument`, `overrides` (flags that set something among them) and the other flags."""
    command = COMMANDS[name]
    cut = argv.index("--") if command.takes_command and "--" in argv else len(argv)
    args = _parser(name, command).parse_intermixed_args(argv[:cut])
    args.command = argv[cut + 1 :]
    words = [word for word in args.words if not _OVERRIDE.match(word)]
    if command.second and len(words) == 2:
        setattr(args, _key(command.second), words.pop())
    given = [value for value in (vars(args)[_key(command.argument)], *words) if value is not None]
    if len(set(given)) > 1:
        raise ConfigError(f"{name} takes one {_metavar(command)}, got {', '.join(given)}; a setting is section.key=value")
    args.argument = given[0] if given else None
    args.overrides = [word for word in args.words if _OVERRIDE.match(word)]
    if args.overrides and not command.takes_settings:
        raise ConfigError(f"{name} takes no settings, got {', '.join(args.overrides)}")
    for flag in command.flags:
        if flag.sets and (value := vars(args)[_key(flag)]) is not None:
            # JSON quotes are YAML quotes: the text of a flag is never read as anything else.
            args.overrides.append(f"{flag.sets}={json.dumps(value, ensure_ascii=False)}")
    return args


def _parser(name: str, command: Command) -> _Parser:
    settings = " [section.key=value ...]" if command.takes_settings else ""
    parser = _Parser(
        prog=f"hyena-glt {name}",
        description=command.help,
        allow_abbrev=False,
        usage=f"hyena-glt {name} [{_metavar(command)}]{' [DST]' if command.second else ''}{settings} [flags]"
        + (" -- COMMAND ..." if command.takes_command else ""),
    )
    parser.add_argument("words", nargs="*", metavar=_metavar(command), help=command.argument.help)
    for flag in (command.argument, *((command.second,) if command.second else ()), *command.flags):
        if flag.is_switch:
            parser.add_argument(*_spellings(flag.name), dest=_key(flag), action="store_true", help=flag.help)
        else:
            metavar = None if flag.choices else "X"
            parser.add_argument(*_spellings(flag.name), dest=_key(flag), choices=flag.choices, help=flag.help, metavar=metavar)
    return parser


def _key(flag: Flag) -> str:
    return flag.name.lstrip("-")


def _metavar(command: Command) -> str:
    return {"--config": "CONFIG", "--input": "SRC", "--submission_id": "ID"}.get(command.argument.name, "PATH")


def _spellings(name: str) -> list[str]:
    """A flag with underscores and with dashes."""
    return sorted({name, "--" + name[2:].replace("_", "-"), "--" + name[2:].replace("-", "_")})


# Commands


def _config(args: Namespace) -> Config:
    from .config import load_config

    return load_config(args.argument, args.overrides)


def _needed(value: str | None, message: str) -> str:
    if value is None:
        raise ConfigError(message)
    return value


def _positive(flag: str, text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"{flag} must be a whole number above 0, got {text}")
    return int(text)


def _whole(flag: str, text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"{flag} must be a whole number, got {text}")
    return int(text)


def _milliseconds(flag: str, text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise ConfigError(f"{flag} must be a number of milliseconds above 0, got {text}")


def _preprocess(args: Namespace) -> Result:
    from pipelines.preprocess import preprocess

    return preprocess(_config(args), dry_run=args.dry_run)


def _validate_data(args: Namespace) -> Result:
    from pipelines.validate import validate_data

    path = _needed(args.argument, "validate-data needs PATH (or --data_path)")
    given = {"max_rows": _positive("--max_rows", args.max_rows)} if args.max_rows else {}
    result: Result = validate_data(path, output_dir=args.output_dir, **given)
    for sentence in result["damage"]:
        print(f"error: {sentence}", file=sys.stderr)
    return result


def _convert(args: Namespace) -> Result:
    source, target = (_needed(value, "convert needs SRC and DST") for value in (args.argument, args.output))
    from pipelines.convert import convert

    return convert(source, target)


def _debug_data(args: Namespace) -> Result:
    batches = _positive("--batches", args.batches or "2")
    step_ms = _milliseconds("--step_ms", args.step_ms) if args.step_ms else None
    cfg = _config(args)
    from pipelines.debug_data import debug_data

    return debug_data(cfg, batches=batches, step_ms=step_ms)


def _pretrain(args: Namespace) -> Result:
    cfg = _config(args)
    if args.sweep and args.mode == "init_only":
        raise ConfigError("--mode init_only builds one model, and --sweep trains many; keep one")
    if args.sweep:
        return _sweep(args)  # the same search, by another name
    from pipelines.pretrain import pretrain

    probe_steps = _whole("--probe_steps", args.probe_steps) if args.probe_steps else None
    return pretrain(cfg, init_only=args.mode == "init_only", dry_run=args.dry_run, probe_steps=probe_steps)


def _sweep(args: Namespace) -> Result:
    cfg = _config(args)
    from pipelines.sweep import sweep

    return sweep(cfg, dry_run=args.dry_run)


def _evaluate(args: Namespace) -> Result:
    model_path = _needed(args.argument, "evaluate needs PATH (or --model_path)")
    metrics = tuple(args.metrics.split(",")) if args.metrics else ()
    from pipelines.evaluate import evaluate

    return evaluate(model_path, eval_data=args.eval_data, metrics=metrics, overrides=tuple(args.overrides), dry_run=args.dry_run)


def _variants(args: Namespace) -> Result:
    model_path = _needed(args.argument, "variants needs PATH (or --model_path)")
    needed = ("vcf", args.vcf), ("reference", args.reference), ("output_dir", args.output_dir)
    vcf, reference, output_dir = (_needed(value, f"variants needs --{name}") for name, value in needed)
    batch_size = _positive("--batch_size", args.batch_size or "16")
    from pipelines.variants import variants

    return variants(
        model_path, vcf=vcf, reference=reference, output_dir=output_dir, batch_size=batch_size, overrides=tuple(args.overrides)
    )


def _embed(args: Namespace) -> Result:
    model_path = _needed(args.argument, "embed needs PATH (or --model_path)")
    needed = ("input", args.input), ("output_dir", args.output_dir)
    sequences, output_dir = (_needed(value, f"embed needs --{name}") for name, value in needed)
    batch_size = _positive("--batch_size", args.batch_size or "16")
    from pipelines.embed import embed

    return embed(
        model_path, sequences=sequences, output_dir=output_dir, per=args.per or "sequence", batch_size=batch_size,
        overrides=tuple(args.overrides),
    )


def _submit(args: Namespace) -> Result:
    job = _job(args.command)
    from cluster.jobs import submit

    variables = tuple(args.env.split(",")) if args.env else ()
    return submit(job, address=args.address, submission_id=args.argument, variables=variables, wait=not args.no_wait)


def _job(words: list[str]) -> Job:
    """The command behind `--`, refused here for all that it can be refused for without its data."""
    example = "such as: hyena-glt submit -- pretrain CONFIG"
    if not words:
        raise ConfigError(f"submit needs a command behind --, {example}")
    name, rest = _split_command(words)
    if name not in JOBS:
        raise ConfigError(f"{name} cannot be submitted as a job; {', '.join(JOBS)} can, {example}")
    from cluster.parcel import checkpoint_job, settings_job

    args = _parse(name, rest)
    given = [(flag, vars(args)[_key(flag)]) for flag in COMMANDS[name].flags if not flag.sets]
    flags = [word for flag, value in given if value for word in ([flag.name] if flag.is_switch else [flag.name, value])]
    if name == "evaluate":
        path = _needed(args.argument, "evaluate needs PATH (or --model_path)")
        return checkpoint_job(name, path, eval_data=args.eval_data, words=flags, overrides=args.overrides)
    name = "sweep" if getattr(args, "sweep", None) else name  # the same search, by another name
    return settings_job(name, _config(args), flags)


def _logs(args: Namespace) -> Result:
    submission_id = _needed(args.argument, "logs needs ID (or --submission_id)")
    from cluster.jobs import logs

    return logs(submission_id, address=args.address)


def _stop(args: Namespace) -> Result:
    submission_id = _needed(args.argument, "stop needs ID (or --submission_id)")
    from cluster.jobs import stop

    return stop(submission_id, address=args.address)


def _job_status(args: Namespace) -> Result:
    from cluster.jobs import status

    return status(args.argument, address=args.address)


def _report(args: Namespace) -> Result:
    checkpoint_dir = _needed(args.argument, "report needs PATH (or --checkpoint_dir)")
    output_dir = _needed(args.output_dir, "report needs --output_dir")
    from pipelines.report import report

    return report(checkpoint_dir, output_dir=output_dir)


def _doctor(args: Namespace) -> Result:
    cfg = _config(args)
    from pipelines.doctor import doctor

    return doctor(cfg)


def _check(args: Namespace) -> Result:
    from pipelines.config import check

    result = check(args.argument, args.overrides)
    for stage, sentences in result["not_built"].items():
        for sentence in sentences:
            print(f"note: {stage} would stop: {sentence}", file=sys.stderr)
    return result


def _show(args: Namespace) -> str:
    from pipelines.config import show

    return show(args.argument, args.overrides).rstrip()


JOBS = ("preprocess", "pretrain", "sweep", "evaluate", "doctor")
"""What can be submitted to a cluster."""

_CONFIG = Flag("--config", "a YAML file, or the name of a shipped one; then section.key=value settings, which win over it")
_DRY_RUN = Flag("--dry_run", "print the resolved settings and the plan, run nothing", is_switch=True)
_JOB = Flag("--submission_id", "what the job is called")
_ADDRESS = Flag("--address", "the URL of the cluster's dashboard; default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265")

COMMANDS: dict[str, Command] = {
    "preprocess": Command(
        "turn FASTA into tokenized Parquet",
        _preprocess,
        _CONFIG,
        (
            Flag("--input", "FASTA file, folder or glob", sets="preprocessing.input_path"),
            Flag("--output", "folder to write", sets="output.path"),
            _DRY_RUN,
        ),
    ),
    "validate-data": Command(
        "list the damage in a preprocessed folder, and describe whole data",
        _validate_data,
        Flag("--data_path", "a preprocessing output or one of its split folders"),
        (
            Flag("--output_dir", "folder to write data_report.html into"),
            Flag("--max_rows", "rows of each split to look at, spread evenly; default: 100000"),
        ),
        takes_settings=False,
    ),
    "convert": Command(
        "copy preprocessed data from Parquet to HDF5, or back",
        _convert,
        Flag("--input", "a preprocessing output, local or in an object store, or one of its HDF5 files"),
        takes_settings=False,
        second=Flag("--output", "folder to write"),
    ),
    "debug-data": Command(
        "show the batches that training would see, and time the loader alone",
        _debug_data,
        _CONFIG,
        (
            Flag("--batches", "batches to show; default: 2"),
            Flag("--step_ms", "time of a training step in milliseconds, to say how long each would wait for data"),
        ),
    ),
    "pretrain": Command(
        "train a model, or go on with a run",
        _pretrain,
        _CONFIG,
        (
            Flag("--output_dir", "the run folder", sets="training.output_dir"),
            Flag("--mode", "init_only: build the model, print its size, save it, and stop", choices=("train", "init_only")),
            Flag("--probe_steps", "steps by which --dry-run times the run; default: 20; 0: none"),
            Flag("--sweep", "run a sweep instead, over that search space; the same as `hyena-glt sweep --space`", sets="tune.space"),
            _DRY_RUN,
        ),
    ),
    "sweep": Command(
        "train many trials with other settings each, and find the best",
        _sweep,
        _CONFIG,
        (
            Flag("--space", "the name of a search space, or the path of a YAML file", sets="tune.space"),
            Flag("--num_trials", "trials in all", sets="tune.num_trials"),
            Flag("--output_dir", "the sweep folder", sets="tune.output_dir"),
            _DRY_RUN,
        ),
    ),
    "evaluate": Command(
        "score a trained model on held-out data",
        _evaluate,
        Flag("--model_path", "a run folder, a checkpoint, or a pointer such as best_model"),
        (
            Flag("--eval_data", "a preprocessing output (its test split) or a split folder"),
            Flag("--metrics", "names with commas between them, such as mlm_accuracy,perplexity,bleu"),
            _DRY_RUN,
        ),
    ),
    "embed": Command(
        "embed sequences, their windows or tokens, as Parquet",
        _embed,
        Flag("--model_path", "a run folder, a checkpoint, or a pointer such as best_model"),
        (
            Flag("--input", "FASTA file, folder or glob; or a preprocessing output (its test split) or a split folder"),
            Flag("--output_dir", "folder to write embeddings/ into"),
            Flag("--per", "what a vector is the mean of, or stands for; default: sequence", choices=("sequence", "window", "token")),
            Flag("--batch_size", "windows that a worker reads at once; default: 16"),
        ),
    ),
    "variants": Command(
        "say how much likelier a model finds each allele of a VCF than the reference's",
        _variants,
        Flag("--model_path", "a run folder, a checkpoint, or a pointer such as best_model"),
        (
            Flag("--vcf", "VCF or BCF file, compressed or not"),
            Flag("--reference", "FASTA file, folder or glob that the variants were called on"),
            Flag("--output_dir", "folder to write effects.parquet and effects.vcf.gz into"),
            Flag("--batch_size", "windows that a worker reads at once; default: 16"),
        ),
    ),
    "report": Command(
        "write an HTML report of a run",
        _report,
        Flag("--checkpoint_dir", "a run folder or its checkpoints"),
        (Flag("--output_dir", "folder to write"),),
        takes_settings=False,
    ),
    "submit": Command(
        "run a command as a job on a cluster, and follow it",
        _submit,
        _JOB,
        (
            _ADDRESS,
            Flag("--no_wait", "end when the job is submitted; `logs` follows it", is_switch=True),
            Flag("--env", "names of environment variables to send along, with commas between them; no secrets"),
        ),
        takes_settings=False,
        takes_command=True,
    ),
    "logs": Command("follow a job's log to its end", _logs, _JOB, (_ADDRESS,), takes_settings=False),
    "stop": Command("tell a job to save and end", _stop, _JOB, (_ADDRESS,), takes_settings=False),
    "status": Command("say how a job is doing, or all jobs", _job_status, _JOB, (_ADDRESS,), takes_settings=False),
    "doctor": Command("check this machine, or every node of the cluster, before a run", _doctor, _CONFIG),
    "config check": Command("check settings without running anything", _check, _CONFIG),
    "config show": Command("print the resolved settings as YAML", _show, _CONFIG),
}

if __name__ == "__main__":
    sys.exit(main())
