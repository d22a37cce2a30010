"""The typed configuration tree: one section a dataclass, defaults beside the fields, bad values refused where declared.

The string under a field is its help text. Loading from YAML and the command line is in `loader`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from ..dna import SequenceType

MixerKind = Literal["hyena", "se", "mr", "li", "attention"]


def require(*rules: tuple[bool, str]) -> None:
    """Refuse a section, a line for each rule that does not hold; the loader puts the dotted path in front.

    A rule is (holds, message), and a message begins with the name of the field.
    """
    broken = [message for holds, message in rules if not holds]
    if broken:
        raise ValueError("\n".join(broken))


def at_least(low: float, section: object, *names: str) -> list[tuple[bool, str]]:
    """Rules: each named field is at least `low`, or null."""
    values = [(name, getattr(section, name)) for name in names]
    return [(value is None or value >= low, f"{name} must be at least {low}, got {value}") for name, value in values]


def above_zero(section: object, *names: str) -> list[tuple[bool, str]]:
    """Rules: each named field is positive, or null."""
    values = [(name, getattr(section, name)) for name in names]
    return [(value is None or value > 0, f"{name} must be positive, got {value}") for name, value in values]


def fraction(section: object, *names: str) -> list[tuple[bool, str]]:
    """Rules: each named field is at least 0 and below 1."""
    values = [(name, getattr(section, name)) for name in names]
    return [(0 <= value < 1, f"{name} must be at least 0 and below 1, got {value}") for name, value in values]


def unused(section: object, reason: str, *names: str) -> list[tuple[bool, str]]:
    """Rules: each named field is at its default, because nothing will read it; `reason` says why."""
    defaults = {field.name: field.default for field in fields(section)}  # type: ignore[arg-type]
    values = [(name, getattr(section, name)) for name in names]
    return [(value == defaults[name], f"{name} ({value}) has no effect {reason}; remove it") for name, value in values]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """How records are divided into train, val and test."""

    by: Literal["record", "named", "tail"] = "record"
    """`record`: seeded hash of the record; `named`: the records listed; `tail`: the last fraction of each record."""
    val: float = 0.05
    """Fraction for validation (`record`, `tail`); 0 makes no such split."""
    test: float = 0.05
    """Fraction for test (`record`, `tail`); 0 makes no such split."""
    val_records: tuple[str, ...] = ()
    """Record names for validation (`named`)."""
    test_records: tuple[str, ...] = ()
    """Record names for test (`named`)."""
    seed: int = 0
    """Seed of the record hash (`record`)."""

    def __post_init__(self) -> None:
        named = bool(self.val_records or self.test_records)
        both = sorted(set(self.val_records) & set(self.test_records))
        require(
            *fraction(self, "val", "test"),
            (self.val + self.test < 1, f"val ({self.val}) and test ({self.test}) leave nothing to train on"),
            (named or self.by != "named", "by: named needs val_records or test_records"),
            (not named or self.by == "named", f"by: val_records and test_records go with `by: named`, got {self.by}"),
            (not both, f"val_records and test_records both hold {', '.join(both)}"),
            *(unused(self, f"with `by: {self.by}`, which draws no records", "seed") if self.by != "record" else ()),
            *(unused(self, "with `by: named`, which lists records", "val", "test") if self.by == "named" else ()),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessingConfig:
    """From FASTA to clean windows."""

    input_path: str | tuple[str, ...] = ()
    """FASTA files (plain, gzip, bgzip), folders or globs."""
    sequence_type: SequenceType = "dna"
    """What the letters are."""
    max_length: int = 1024
    """Bases (residues for protein) in a window."""
    min_length: int = 1
    """Windows shorter than this are dropped and counted."""
    remove_duplicates: bool = True
    """Drop exact repeats: whole records first, then windows; the first stays."""
    filter_n_bases: bool = True
    """Drop windows with more than `max_ambiguous_fraction` ambiguous bases; false keeps all."""
    max_ambiguous_fraction: float = 0.05
    """Largest share of ambiguous letters (N, IUPAC; B J X Z * for protein) in a window that stays."""
    soft_masked: Literal["keep", "weight", "drop"] = "keep"
    """Lower-case stretches: `keep` reads them as upper case; `weight` and `drop` are not built yet."""
    split: SplitConfig = field(default_factory=SplitConfig)

    def __post_init__(self) -> None:
        share = self.max_ambiguous_fraction
        require(
            (
                1 <= self.min_length <= self.max_length,
                f"min_length ({self.min_length}) must lie between 1 and max_length ({self.max_length})",
            ),
            (0 <= share <= 1, f"max_ambiguous_fraction must lie between 0 and 1, got {share}"),
            *(unused(self, "with `filter_n_bases: false`, which keeps all", "max_ambiguous_fraction") if not self.filter_n_bases else ()),
        )


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
    """Folder for shards, manifest and tokenizer."""
    format: Literal["parquet", "hdf5"] = "parquet"
    """`hdf5` is not built yet."""
    chunk_size: int = 10_000
    """Rows a shard, at most."""
    compress: bool = True
    """Compress the shards (zstd)."""

    def __post_init__(self) -> None:
        require(*at_least(1, self, "chunk_size"))


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
    """AdamW: linear warm-up, then cosine decay to `min_learning_rate`."""

    output_dir: str | None = None
    """The run folder."""
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
    learning_rate: float = 6e-4
    """Peak rate, reached after `warmup_steps`."""
    min_learning_rate: float | None = None
    """Where the cosine ends; default: a tenth of the peak."""
    warmup_steps: int = 0
    weight_decay: float = 0.1
    """Not on norms, biases, embeddings and filters."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0
    """Gradient clipping by global norm; null turns it off."""
    early_stopping_patience: int | None = None
    """Stop after so many evaluations without a lower validation loss."""
    eval_max_rows: int | None = None
    """Rows of the validation split that an evaluation reads, from its start; default: all."""

    def __post_init__(self) -> None:
        low = self.min_learning_rate
        require(
            *at_least(1, self, "batch_size", "gradient_accumulation_steps"),
            *above_zero(self, "num_epochs", "max_steps", "max_tokens", "max_grad_norm", "early_stopping_patience", "eval_max_rows"),
            *above_zero(self, "learning_rate", "adam_epsilon"),
            *at_least(0, self, "seed", "warmup_steps", "weight_decay"),
            *fraction(self, "adam_beta1", "adam_beta2"),
            (
                low is None or 0 <= low <= self.learning_rate,
                f"min_learning_rate must lie between 0 and learning_rate ({self.learning_rate}), got {low}",
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What training and evaluation read."""

    train_path: str | None = None
    """A preprocessing output (its train split) or a split folder."""
    val_path: str | None = None
    """A preprocessing output (its val split) or a split folder; default: beside train_path."""
    eval_data: str | None = None
    """What `evaluate` reads: a split folder, or a preprocessing output (its test split)."""
    sequence_length: int | None = None
    """Tokens a row; longer rows are cut into rows, losing nothing; default: the data's own width."""
    shuffle_row_groups: int = 16
    """Row groups that are shuffled together."""

    def __post_init__(self) -> None:
        require(*at_least(2, self, "sequence_length"), *at_least(1, self, "shuffle_row_groups"))


@dataclass(frozen=True, kw_only=True, slots=True)
class HardwareConfig:
    """Devices, precision and memory."""

    num_gpus: int | None = None
    """Workers with a GPU each; default: all the cluster has."""
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
    save_epochs: int | None = None
    """Also keep `epoch_N` every so many epochs."""
    keep_checkpoints: int | None = None
    """Newest `step_*` folders to keep (`best_model` and `epoch_*` stay); default: all."""

    def __post_init__(self) -> None:
        require(*at_least(1, self, "log_interval", "eval_interval", "save_interval", "save_epochs", "keep_checkpoints"))


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
class CurriculumConfig:
    """Not built yet: sequence lengths that grow during training."""

    sequence_lengths: tuple[int, ...] = ()
    """Tokens a row, phase by phase."""
    epochs: tuple[int, ...] = ()
    """The epoch in which each phase but the first starts."""


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
    train_workers: int | tuple[int, int] | None = None
    """Training workers, or [min, max]; default: one a GPU, or one if there is none."""
    cpus_per_worker: int = 1
    """CPUs (and torch threads, without a GPU) of a training worker."""
    max_failures: int = 3
    """Restarts from the last checkpoint after a worker or node was lost."""
    num_cpus: int | None = None
    """CPUs that a local Ray is told it has; default: those of the machine."""

    def __post_init__(self) -> None:
        workers = self.train_workers
        low, high = workers if isinstance(workers, tuple) else (workers or 1, workers or 1)
        require(
            (workers != 0 and 1 <= low <= high, f"train_workers must be a number from 1 or [min, max], got {workers}"),
            *at_least(1, self, "cpus_per_worker", "num_cpus"),
            *at_least(0, self, "max_failures"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig:
    """Not built yet: sweeps."""

    space: str | None = None
    """A search space in `tune_spaces/`."""


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
        require(
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
