"""The typed configuration of a run: one YAML file, dotted overrides, every mistake named. No torch here."""

from __future__ import annotations

from fna.config.budgets import Budget, parse_budget
from fna.config.configs import CONFIGS, Config, DetectionConfig, PoseConfig, SegmentationConfig
from fna.config.data import (
    DataConfig,
    DetectionDataConfig,
    DetectionEvaluateConfig,
    EvaluateConfig,
    PoseDataConfig,
    PoseEvaluateConfig,
    SegmentationDataConfig,
    SegmentationEvaluateConfig,
)
from fna.config.listing import owned_settings, owner, settings
from fna.config.models import (
    MODELS,
    TASKS,
    DeepLab,
    DeepLabV3,
    DeepLabV3Plus,
    Detector,
    RetinaNet,
    SimpleBaseline,
    SSDLite,
    TaskConfig,
    scaled_channels,
)
from fna.config.reading import dump_yaml, load_config, make_config, merge, refuse_code
from fna.config.sections import (
    AdaptConfig,
    AlphaConfig,
    DeriveConfig,
    EngineConfig,
    OptimizerConfig,
    RemapConfig,
    SearchConfig,
    SeedConfig,
    SpaceConfig,
)
from fna.config.strict_yaml import parse_yaml

__all__ = [
    "CONFIGS",
    "MODELS",
    "TASKS",
    "AdaptConfig",
    "AlphaConfig",
    "Budget",
    "Config",
    "DataConfig",
    "DeepLab",
    "DeepLabV3",
    "DeepLabV3Plus",
    "DeriveConfig",
    "DetectionConfig",
    "DetectionDataConfig",
    "DetectionEvaluateConfig",
    "Detector",
    "EngineConfig",
    "EvaluateConfig",
    "OptimizerConfig",
    "PoseConfig",
    "PoseDataConfig",
    "PoseEvaluateConfig",
    "RemapConfig",
    "RetinaNet",
    "SSDLite",
    "SearchConfig",
    "SeedConfig",
    "SegmentationConfig",
    "SegmentationDataConfig",
    "SegmentationEvaluateConfig",
    "SimpleBaseline",
    "SpaceConfig",
    "TaskConfig",
    "dump_yaml",
    "load_config",
    "make_config",
    "merge",
    "owned_settings",
    "owner",
    "parse_budget",
    "parse_yaml",
    "refuse_code",
    "scaled_channels",
    "settings",
]
