"""The typed settings: one tree, loaded from YAML and dotted overrides; imports neither torch nor ray."""

from __future__ import annotations

from .dump import changed_settings, config_to_dict, dump_config
from .loader import config_from_dict, config_from_text, load_config
from .preprocessing import (
    GoTermsConfig,
    LabelRegionsConfig,
    NearDuplicatesConfig,
    PreprocessingConfig,
    RegionsConfig,
    SplitConfig,
    VariantsConfig,
    WeightRegionsConfig,
)
from .recipe import Curriculum, CurriculumConfig, ScheduleKind, StageConfig
from .sources import overridden
from .tree import (
    CausalLMConfig,
    ClusterConfig,
    CompressionConfig,
    Config,
    DataConfig,
    HardwareConfig,
    LoggingConfig,
    MaskedLMConfig,
    ModelConfig,
    NextSentencePredictionConfig,
    OutputConfig,
    SequenceOrderPredictionConfig,
    TasksConfig,
    TokenizationConfig,
    TrainingConfig,
)
from .tuning import TuneConfig
from .unbuilt import Stage, TaskConfig, active_tasks, not_built, only_task, require_built

__all__ = [
    "CausalLMConfig",
    "ClusterConfig",
    "CompressionConfig",
    "Config",
    "Curriculum",
    "CurriculumConfig",
    "DataConfig",
    "GoTermsConfig",
    "HardwareConfig",
    "LabelRegionsConfig",
    "LoggingConfig",
    "MaskedLMConfig",
    "ModelConfig",
    "NearDuplicatesConfig",
    "NextSentencePredictionConfig",
    "OutputConfig",
    "PreprocessingConfig",
    "RegionsConfig",
    "ScheduleKind",
    "SequenceOrderPredictionConfig",
    "SplitConfig",
    "Stage",
    "StageConfig",
    "TaskConfig",
    "TasksConfig",
    "TokenizationConfig",
    "TrainingConfig",
    "TuneConfig",
    "VariantsConfig",
    "WeightRegionsConfig",
    "active_tasks",
    "changed_settings",
    "config_from_dict",
    "config_from_text",
    "config_to_dict",
    "dump_config",
    "load_config",
    "not_built",
    "only_task",
    "overridden",
    "require_built",
]
