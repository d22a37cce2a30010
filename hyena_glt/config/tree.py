"""The typed configuration tree: one section a dataclass, defaults beside the fields, bad values refused where declared.

The string under a field is its help text. Loading from YAML and the command line is in `loader`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .preprocessing import PreprocessingConfig
from .recipe import CurriculumConfig, ScheduleKind, StageConfig
from .rules import above_zero, at_least, fraction, require, share, unused
from .tuning import TuneConfig

MixerKind = Literal["hyena", "se", "mr", "li", "attention"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizationConfig:
    """From bases to ids."""

    kind: Literal["kmer", "char", "amino_acid"] | None = None
    """Default: `kmer` for dna and rna, `amino_acid` for protein."""
    vocab_size: int | None = None
    """Symbols without specials; optional, a number that does not fit the tokenizer is an error."""
    kmer_size: int = 6
    """k, 1 to 7."""
    kmer_stride: int | None = None
    """Bases between tokens: k (default, disjoint) or 1 (overlapping)."""
    stride: int | None = None
    """Bases between window starts; default: `preprocessing.max_length`."""
    overlap: int = 0
    """The least that neighbouring windows share, in bases."""
    add_special_tokens: bool = False
    """Let the batcher put [CLS] before and [SEP] behind each window."""

    def __post_init__(self) -> None:
        k, stride = self.kmer_size, self.kmer_stride
        require(
            (1 <= k <= 7, f"kmer_size must lie between 1 and 7, got {k}"),
            (stride in (None, 1, k), f"kmer_stride must be kmer_size ({k}, disjoint) or 1 (overlapping), got {stride}"),
            *at_least(1, self, "vocab_size", "stride"),
            *at_least(0, self, "overlap"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputConfig:
    """Where preprocessing writes, and how."""

    path: str | None = None
    """Folder for shards, manifest and tokenizer; s3://bucket/name and gs://bucket/name too."""
    format: Literal["parquet", "hdf5"] = "parquet"
    """`parquet`: shards; `hdf5`: one file a split, such as train.h5."""
    scratch_path: str | None = None
    """Folder for intermediate files, seen by all nodes, where `path` is in an object store; default: .hyena-glt in the current folder."""
    chunk_size: int = 10_000
    """Rows a shard, at most; long rows make smaller shards, of some 16 million bases, and an input of over 100,000 shards larger ones."""
    compress: bool = True
    """Compress the shards: Parquet by zstd, HDF5 by gzip."""

    def __post_init__(self) -> None:
        remote = self.path is not None and "://" in self.path
        require(
            *at_least(1, self, "chunk_size"),
            *(unused(self, "with a local path, which holds its own scratch folder", "scratch_path") if not remote else ()),
        )


SETTINGS_OF_MIXERS: dict[MixerKind, tuple[str, ...]] = {
    "hyena": ("hyena_order", "hyena_filter_order", "hyena_filter_shift"),
    "se": ("se_taps",),
    "mr": ("mr_taps",),
    "li": ("li_poles",),
}
"""The settings of `model` that only one kind of mixer reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The network. Whether it is causal follows from the objective."""

    name: str = "hyena-glt"
    """A label, for logs and reports."""
    vocab_size: int | None = None
    """Symbols without specials; default: the data's."""
    hidden_size: int = 768
    """Width D."""
    num_layers: int = 12
    num_attention_heads: int = 12
    """Heads of the attention layers."""
    intermediate_size: int | None = None
    """Width of the MLP; default: 4 * hidden_size."""
    max_position_embeddings: int = 1024
    """The longest sequence, in tokens."""
    mixers: tuple[MixerKind, ...] = ("se", "mr", "li", "se", "mr", "li", "attention")
    """The pattern of mixers that the layers cycle through."""
    position_encoding: Literal["none", "learned", "sinusoidal", "rotary"] | None = None
    """Default: `rotary` if the pattern has attention, else `none`."""
    tie_embeddings: bool = True
    """The head shares the embedding's weights."""
    dropout: float = 0.0
    """Dropout of the embedding and the residual branches."""
    layer_norm_eps: float = 1e-5
    hyena_order: int = 2
    """Order N of the `hyena` mixer."""
    hyena_filter_order: int = 64
    """Width of the implicit filter's MLP."""
    hyena_filter_shift: float = 0.0
    """Floor of the exponential window of the implicit filter (0.05 in HyenaDNA's standalone code)."""
    featurizer_taps: int = 3
    """Taps of the short convolution after the input projection."""
    se_taps: int = 7
    mr_taps: int = 128
    li_poles: int = 16
    """Real exponentials in the long filter of `li`."""

    def __post_init__(self) -> None:
        kinds = self.mixers[: self.num_layers]
        attends = "attention" in kinds
        width, heads = self.hidden_size, self.num_attention_heads
        sizes = ("vocab_size", "hidden_size", "num_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
        inner = ("hyena_filter_order", "featurizer_taps", "se_taps", "mr_taps", "li_poles")
        require(
            *at_least(1, self, *sizes, *inner),
            *at_least(2, self, "hyena_order"),
            (len(self.mixers) >= 1, "mixers needs at least one kind"),
            (
                not attends or heads < 1 or width % heads == 0,
                f"hidden_size ({width}) must be a multiple of num_attention_heads ({heads}), because mixers has attention",
            ),
            (
                attends or self.position_encoding != "rotary",
                "position_encoding: rotary positions act in attention layers, and mixers gives none to these num_layers",
            ),
            *fraction(self, "dropout"),
            *above_zero(self, "layer_norm_eps"),
            *(
                rule
                for kind, names in SETTINGS_OF_MIXERS.items()
                if kind not in kinds
                for rule in unused(self, f"because mixers gives no `{kind}` to these num_layers", *names)
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How weights are updated, and for how long: optimizer, learning rate, batch, stages, and what ends a run."""

    output_dir: str | None = None
    """The run folder: a path that all nodes see, or a URL such as s3://bucket/name."""
    init_from: str | None = None
    """A run folder or checkpoint whose weights start this run (its optimizer and position do not)."""
    seed: int = 0
    batch_size: int = 32
    """Rows per worker and micro-step."""
    gradient_accumulation_steps: int = 1
    """Micro-steps per optimizer step."""
    num_epochs: float | None = None
    max_steps: int | None = None
    max_tokens: int | None = None
    """Of num_epochs, max_steps and max_tokens at least one is needed; the first reached ends the run."""
    stages: tuple[StageConfig, ...] = ()
    """Stretches of the run, one after the other, each with its own schedule; default: one, with the schedule here."""
    optimizer: Literal["adamw", "lion", "muon"] = "adamw"
    """muon: Muon for the matrices inside the blocks, AdamW for all else."""
    learning_rate: float = 6e-4
    """Peak rate, reached after `warmup_steps`."""
    min_learning_rate: float | None = None
    """Where the schedule ends; default: a tenth of the peak."""
    schedule: ScheduleKind = "cosine"
    """After the warm-up: constant; cosine or linear down to the end; inverse_sqrt, peak * sqrt(warm-up / step); wsd, constant and then
    linear down in the last `cooldown_steps`."""
    warmup_steps: int = 0
    cooldown_steps: int | None = None
    """Of `wsd`; default: a fifth of the run."""
    filter_learning_rate: float | None = None
    """Peak rate of what shapes the mixers' filters (adamw, lion and the AdamW part of muon); default: `learning_rate`."""
    layer_rate_decay: float = 1.0
    """The rate of a block is this times that of the block above it; the embedding counts as the lowest."""
    muon_learning_rate: float = 0.02
    """Peak rate of the matrices under `optimizer: muon`, in spectral norm per step; it follows the same schedule."""
    muon_momentum: float = 0.95
    weight_decay: float = 0.1
    """Not on norms, biases, embeddings and filters."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0
    """Gradient clipping by global norm; null turns it off. Muon's steps have a size of their own, and ZeRO 1 to 3 clip nothing under it."""
    on_bad_step: Literal["stop", "skip", "roll_back"] = "stop"
    """What to do at a loss that is not finite or, with `spike_factor`, at a spike. skip: leave the weights as they are; roll_back: take
    the last checkpoint and leave out the rows since; stop: end the run, which the same command goes on with."""
    spike_factor: float | None = None
    """A loss above this times the running mean of the losses is a spike; default: no loss is."""
    early_stopping_patience: int | None = None
    """Stop after so many evaluations without a lower validation loss."""
    eval_max_rows: int | None = None
    """Rows of the validation split that an evaluation reads, from its start; default: all."""

    def __post_init__(self) -> None:
        low = self.min_learning_rate
        require(
            *at_least(1, self, "batch_size", "gradient_accumulation_steps"),
            *above_zero(self, "num_epochs", "max_steps", "max_tokens", "max_grad_norm", "early_stopping_patience", "eval_max_rows"),
            *above_zero(self, "learning_rate", "filter_learning_rate", "muon_learning_rate", "adam_epsilon"),
            *at_least(1, self, "cooldown_steps"), *at_least(0, self, "seed", "warmup_steps", "weight_decay"),
            *fraction(self, "adam_beta1", "adam_beta2", "muon_momentum"),
            (0 < self.layer_rate_decay <= 1, f"layer_rate_decay must lie above 0 and up to 1, got {self.layer_rate_decay}"),
            (self.spike_factor is None or self.spike_factor > 1, f"spike_factor must be above 1, got {self.spike_factor}"),
            *(unused(self, "unless optimizer is muon", "muon_learning_rate", "muon_momentum") if self.optimizer != "muon" else ()),
            *(unused(self, "unless schedule is wsd", "cooldown_steps") if self.schedule != "wsd" else ()),
            *_stage_rules(self.stages), *(_unused_by_stages(self) if self.stages else ()),
            (
                low is None or 0 <= low <= self.learning_rate,
                f"min_learning_rate must lie between 0 and learning_rate ({self.learning_rate}), got {low}",
            ),
        )


def _unused_by_stages(training: TrainingConfig) -> list[tuple[bool, str]]:
    return unused(training, "beside stages, which have their own", "schedule", "warmup_steps", "min_learning_rate", "cooldown_steps")


def _stage_rules(stages: tuple[StageConfig, ...]) -> list[tuple[bool, str]]:
    endless = [stage.name for stage in stages[:-1] if stage.epochs is stage.steps is stage.tokens is None]
    names = [stage.name for stage in stages]
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    return [
        (not endless, f"stages: {', '.join(endless)} needs epochs, steps or tokens; only the last stage may go on to the end of the run"),
        (not twice, f"stages: {', '.join(twice)} is there twice; each needs its own name"),
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What training and evaluation read."""

    train_path: str | tuple[str, ...] | None = None
    """A preprocessing output (its train split), a split folder or an .h5 file; several are mixed, each a domain named by its folder."""
    val_path: str | tuple[str, ...] | None = None
    """The same for validation (val split); default: beside each train_path that has one."""
    mixture_weights: tuple[float, ...] = ()
    """Share of the tokens drawn from each of several `train_path`, in their order; default: by their tokens, each row equally often."""
    mixture_temperature: float = 1.0
    """T: shares go as weight ** (1 / T); 1 keeps them, larger ones draw more from small datasets."""
    reverse_complement: float = 0.0
    """Probability that a training row is read from the other strand (dna, rna). Disjoint k-mers keep their frame: what the other strand
    itself would be cut into where a row is a multiple of k bases."""
    max_shift: int = 0
    """A training row starts 0 to this many tokens later, by chance, and goes on into the next row (or piece, with `sequence_length`);
    it stays where that does not follow in its record without a gap or overlap."""
    eval_data: str | None = None
    """What `evaluate` reads: a split folder, or a preprocessing output (its test split)."""
    sequence_length: int | None = None
    """Tokens a row; longer rows are cut into rows, losing nothing; default: the data's own width."""
    shuffle_row_groups: int = 16
    """Row groups that are shuffled together."""
    read_retry_s: float = 600.0
    """Seconds for which rows that the storage does not give are asked for again, while training waits."""

    def __post_init__(self) -> None:
        paths = len(self.train_path) if isinstance(self.train_path, tuple) else 1
        weights = self.mixture_weights
        require(
            *at_least(2, self, "sequence_length"), *at_least(1, self, "shuffle_row_groups"),
            *at_least(0, self, "max_shift", "read_retry_s"), *above_zero(self, "mixture_temperature"), *share(self, "reverse_complement"),
            (
                not weights or len(weights) == paths,
                f"mixture_weights needs one number for each of the {paths} train_path, got {len(weights)}",
            ),
            (all(weight > 0 for weight in weights), f"mixture_weights must be positive, got {', '.join(map(str, weights))}"),
            *(unused(self, "with a single train_path", "mixture_weights", "mixture_temperature") if paths == 1 else ()),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class HardwareConfig:
    """Devices, precision and memory."""

    num_gpus: int | None = None
    """Workers with a GPU each; default: all that the cluster has at the start. A cluster with fewer is waited for, as it may grow."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto: bf16 where the device has it, else fp16 with loss scaling, fp32 on a CPU."""
    mixed_precision: bool | None = None
    """true is `precision: auto`; false is fp32."""
    gradient_checkpointing: bool = False
    """Recompute each block in the backward pass."""
    compile_model: bool = False
    """torch.compile, block by block."""
    num_workers: int = 0
    """Loader processes per training worker."""
    pin_memory: bool = False
    distributed_backend: Literal["auto", "nccl", "gloo"] = "auto"
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO: 1 shards the optimizer state, 2 the gradients too, 3 the weights too."""
    offload_optimizer: bool = False
    """Keep the optimizer state in host memory."""
    offload_parameters: bool = False
    """Keep the weights in host memory (ZeRO 3)."""

    def __post_init__(self) -> None:
        mixed, stage = self.mixed_precision, self.zero_stage
        require(
            *at_least(0, self, "num_gpus", "num_workers"),
            (
                mixed is None or self.precision == "auto" or mixed == (self.precision in ("bf16", "fp16")),
                f"mixed_precision ({mixed}) contradicts precision ({self.precision})",
            ),
            (not self.offload_optimizer or stage >= 1, f"offload_optimizer needs zero_stage 1 or more, got {stage}"),
            (not self.offload_parameters or stage == 3, f"offload_parameters needs zero_stage 3, got {stage}"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggingConfig:
    """What a run writes and when; intervals count optimizer steps."""

    use_wandb: bool = False
    """Weights & Biases; offline without an account."""
    wandb_project: str = "hyena-glt"
    use_tensorboard: bool = True
    log_interval: int = 10
    eval_interval: int = 1000
    save_interval: int = 1000
    statistics_interval: int | None = None
    """Write norms of gradients, weights and activations, block by block, every so many steps; default: never."""
    save_epochs: int | None = None
    """Also keep `epoch_N` every so many epochs."""
    keep_checkpoints: int | None = None
    """Newest `step_*` folders to keep (`best_model` and `epoch_*` stay); default: all."""
    save_retry_s: float = 600.0
    """Seconds for which a checkpoint that the storage refuses (a full disk) is tried again, while training goes on."""

    def __post_init__(self) -> None:
        intervals = ("log_interval", "eval_interval", "save_interval", "statistics_interval", "save_epochs", "keep_checkpoints")
        require(*at_least(1, self, *intervals), *at_least(0, self, "save_retry_s"))


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedLMConfig:
    """Masked language modelling: hide some tokens, predict them from both sides."""

    weight: float = 1.0
    mask_probability: float = 0.15
    """Share of tokens that are predicted: 80 % become [MASK], 10 % a random symbol, 10 % stay."""

    def __post_init__(self) -> None:
        share = self.mask_probability
        require(*at_least(0, self, "weight"), (0 < share < 1, f"mask_probability must lie between 0 and 1, got {share}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalLMConfig:
    """Next-token prediction."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        require(*at_least(0, self, "weight"))


@dataclass(frozen=True, kw_only=True, slots=True)
class NextSentencePredictionConfig:
    """Not built yet."""

    weight: float = 1.0
    negative_sampling: float = 0.5

    def __post_init__(self) -> None:
        require(*at_least(0, self, "weight"))


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceOrderPredictionConfig:
    """Not built yet."""

    weight: float = 1.0
    shuffle_probability: float = 0.15

    def __post_init__(self) -> None:
        require(*at_least(0, self, "weight"))


@dataclass(frozen=True, kw_only=True, slots=True)
class TasksConfig:
    """The objectives that are trained together; a section that is absent or null is off, and so is one with weight 0.

    With no section at all, `masked_lm` is on.
    """

    masked_lm: MaskedLMConfig | None = None
    causal_lm: CausalLMConfig | None = None
    next_sentence_prediction: NextSentencePredictionConfig | None = None
    sequence_order_prediction: SequenceOrderPredictionConfig | None = None

    def __post_init__(self) -> None:
        given = [section for name in self.__slots__ if (section := getattr(self, name)) is not None]
        if not given:
            object.__setattr__(self, "masked_lm", MaskedLMConfig())  # resolved here, so that a saved tree says what ran
        require((not given or any(section.weight > 0 for section in given), "every weight is 0, so nothing is trained"))


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressionConfig:
    """Not built yet: compression of gradients between workers."""

    method: Literal["fp16", "int8", "pruning"] | None = None
    compression_ratio: float = 0.01
    sparsity_threshold: float = 1e-6

    def __post_init__(self) -> None:
        require(*(unused(self, "without a method", "compression_ratio", "sparsity_threshold") if self.method is None else ()))


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """The Ray cluster and the workers on it."""

    address: str | None = None
    """Ray's address; default: the cluster this runs in (RAY_ADDRESS), else a local Ray."""
    storage_path: str | None = None
    """A folder or URL that every node sees; relative paths of the settings are below it. Default: the current folder; a job has none."""
    train_workers: int | tuple[int, int] | None = None
    """Training workers; [min, max]: at each start as many as there is room for and divide the global batch, with GPUs if there are any.

    Default: one a GPU, or one.
    """
    cpus_per_worker: int = 1
    """CPUs (and torch threads, without a GPU) of a training worker."""
    gpus_per_worker: float = 1.0
    """GPUs of a training worker, where there are any; a fraction lets the trials of a sweep share one."""
    max_failures: int = 3
    """Restarts after a worker or node was lost that bring no new checkpoint."""
    grow_interval_s: float = 300.0
    """Between two looks if a run with a range of workers has room for more; it then saves and starts again with them. 0: no look.

    A start that has not saved yet stays as it is.
    """
    start_timeout_s: float = 1800.0
    """How long a run waits for room for all of its workers, at the start and after a node was lost; preprocessing for a first CPU."""
    stall_timeout_s: float = 600.0
    """Seconds without a step (validation and saving included) after which a worker writes its stack to the run folder.

    What a sweep holds until it may go on does not count.
    """
    collective_timeout_s: float = 1800.0
    """How long a worker waits for the others in a sum before the run starts again."""
    num_cpus: int | None = None
    """CPUs that a local Ray is told it has; default: those of the machine."""

    def __post_init__(self) -> None:
        workers, storage = self.train_workers, self.storage_path
        low, high = workers if isinstance(workers, tuple) else (workers or 1, workers or 1)
        require(
            (workers != 0 and 1 <= low <= high, f"train_workers must be a number from 1 or [min, max], got {workers}"),
            (
                storage is None or storage.startswith("/") or "://" in storage,
                f"storage_path must be an absolute path or a URL, got {storage}",
            ),
            (0 < self.gpus_per_worker <= 1, f"gpus_per_worker must be above 0 and at most 1, got {self.gpus_per_worker}"),
            *above_zero(self, "collective_timeout_s", "stall_timeout_s"),
            *at_least(1, self, "cpus_per_worker", "num_cpus"),
            *at_least(0, self, "max_failures", "grow_interval_s", "start_timeout_s"),
        )

    def devices_per_worker(self, use_gpu: bool) -> float:
        """GPUs of a worker, or without a GPU its CPUs: what device hours count."""
        return self.gpus_per_worker if use_gpu else self.cpus_per_worker


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The whole tree, a section a field."""

    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    tokenization: TokenizationConfig = field(default_factory=TokenizationConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    curriculum: CurriculumConfig | None = None
    compression: CompressionConfig | None = None
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tune: TuneConfig | None = None

    def __post_init__(self) -> None:
        window, stride, overlap = self.preprocessing.max_length, self.tokenization.stride, self.tokenization.overlap
        shared = 0 if stride is None else window - stride
        length, limit = self.data.sequence_length, self.model.max_position_embeddings
        gpus, workers = self.hardware.num_gpus, self.cluster.train_workers
        masked = self.tasks.masked_lm is not None and self.tasks.masked_lm.weight > 0
        leaves_out_steps = self.training.on_bad_step == "skip" or self.hardware.precision == "fp16"
        require(
            *self._curriculum_rules(masked),
            (
                self.training.optimizer != "muon" or self.hardware.zero_stage < 3 or not leaves_out_steps,
                "training.optimizer: muon under zero_stage 3 keeps what a step that is left out did to its momentum; "
                "take zero_stage 0 to 2, or another on_bad_step or precision",
            ),
            (
                shared >= overlap,
                f"tokenization.stride ({stride or window}) must be at most {window - overlap}, so that windows of "
                f"preprocessing.max_length ({window}) share tokenization.overlap ({overlap})",
            ),
            (
                length is None or length <= limit,
                f"data.sequence_length ({length}) must be at most model.max_position_embeddings ({limit})",
            ),
            (
                not gpus or not isinstance(workers, int) or gpus == workers,
                f"hardware.num_gpus ({gpus}) has no effect beside cluster.train_workers ({workers}), which is the number of workers "
                f"with a GPU each too; keep one",
            ),
        )

    def _curriculum_rules(self, masked: bool) -> list[tuple[bool, str]]:
        curriculum = self.curriculum or CurriculumConfig()
        lengths, weights = curriculum.sequence_length, curriculum.mixture_weights
        paths = len(self.data.train_path) if isinstance(self.data.train_path, tuple) else 1
        limit = self.data.sequence_length or self.model.max_position_embeddings
        numbers = {len(values) for values in weights.values} if weights else set()
        return [
            (
                lengths is None or max(lengths.values) <= limit,
                f"curriculum.sequence_length.values must be at most {limit} (data.sequence_length or model.max_position_embeddings)",
            ),
            (masked or curriculum.mask_probability is None, "curriculum.mask_probability has no effect without tasks.masked_lm; remove it"),
            (
                weights is None or (paths > 1 and numbers == {paths}),
                f"curriculum.mixture_weights.values needs {paths} weights in each item, one for each of several data.train_path",
            ),
            (
                bool(self.training.stages) or self.training.schedule != "inverse_sqrt" or self.training.warmup_steps > 0,
                "training.warmup_steps must be positive with schedule inverse_sqrt, which falls as sqrt(warmup_steps / step)",
            ),
        ]
