"""Settings of the sections `data` and `evaluate`: what all tasks share, and what one task has of its own."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fna.config.labels import LabelNames, SomeLabels
from fna.config.sections import (
    AboveZero,
    BelowOne,
    FromZero,
    Positive,
    Section,
    Several,
    Share,
    Size,
    Two,
    UpToOne,
    note,
)

UnitInterval = Annotated[float, Field(ge=0, le=1)]


class SplitConfig(Section):
    """What is cut out of a data set that has no lists of splits."""

    val: Share | None = note(None, "share of the images to score on, where the data set has no such split")
    test: Share | None = note(None, "share of the images for the end, where the data set has no such split")

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if (self.val or 0) + (self.test or 0) >= 1:
            raise ValueError(f"data.split.val {self.val:g} and test {self.test:g} leave nothing to learn from")
        return self


class DataConfig(Section):
    """Where the images are and how they are cut."""

    format: str = note("auto", "how the data set lies on disk; `fna list formats`; auto: as it looks")
    root: str | None = note(None, "the data set's folder")
    train: str = note("train", "split to learn from (weights, and alphas on a part of it)")
    val: str = note("val", "split to score on")
    test: str = note("test", "split that is opened only where it is asked for: fna evaluate --split test")
    split: SplitConfig = SplitConfig()
    image_folder: str | None = note(None, "folder of the images below root, where the format's own is not it")
    classes: Several[str] | None = note(None, "class names by label in the masks, or those to detect, in order")
    crop: Size = note((240, 320), "what the network sees in training: height, width")
    scale: Two[AboveZero] | None = note(
        None, "range of the random resize; null: 0.75 to 2 (segmentation), 0.8 to 1.2 (detection), 0.75 to 1.25 (pose)"
    )
    flip: bool = note(True, "random left-right flip")
    color_jitter: UnitInterval = note(0.2, "strength for brightness, contrast, saturation")
    transform: str | None = note(
        None, "a function of yours on training samples, module:function; named on the command line, files run no code"
    )
    eval_size: Size | None = note(
        None, "height, width images are scored at; null: their own (segmentation), the crop (detection, pose)"
    )
    on_error: Literal["fail", "fix", "skip"] = note(
        "fail", "a bad record stops the run, is mended where possible, or is left out; all are counted"
    )
    allow_change: bool = note(False, "go on although the data are not those the run began with; the report says so")
    allow_outside: bool = note(False, "read what lists and annotations name outside the data's folder, too")
    cache_gb: FromZero = note(4.0, "keep decoded images in memory up to this size")
    images: Positive = note(96, "images per split (format 'synthetic')")


class SegmentationDataConfig(DataConfig):
    """Images with a label per pixel."""

    labels: LabelNames = note(
        None,
        "class of each label in the masks: {0: background, 255: human}; null: the format's, or data.classes' order",
    )
    ignore_label: SomeLabels = note(None, "labels of no class, one or several; null: the format's own, else 255")
    reduce_zero_label: bool = note(False, "0 is no class: the first of data.classes has label 1")
    eval_scale: AboveZero = note(1.0, "images are scored at this multiple of eval_size, or of their own size")

    @property
    def resize(self) -> tuple[float, float]:
        """Range of the random resize."""
        return self.scale or (0.75, 2.0)


class DetectionDataConfig(DataConfig):
    """Images with boxes."""

    augment: Literal["resize", "ssd"] | None = note(
        None, "'resize', or 'ssd' (zoom out, crop by IoU, colour distortion); null: the model's own"
    )


class PoseDataConfig(DataConfig):
    """Persons with joints."""

    rotation: Annotated[float, Field(ge=0, le=180)] = note(30.0, "largest random rotation in degrees")
    half_body: UnitInterval = note(0.3, "how often only the upper or lower body is cut out")
    box_padding: AboveZero = note(1.25, "side of the crop / side of the person's box")


class EvaluateConfig(Section):
    """How a network is scored."""

    batch_size: Positive = 4
    every: Positive = note(1, "epochs between scores during adaptation")


class SegmentationEvaluateConfig(EvaluateConfig):
    """How label maps are made."""

    mode: Literal["whole", "sliding"] = "whole"
    window: Size | None = note(None, "sliding window: height, width; null: the training crop")
    overlap: BelowOne = note(1 / 3, "share two windows have in common")


class DetectionEvaluateConfig(EvaluateConfig):
    """Which boxes are detections."""

    score_threshold: BelowOne = note(0.05, "boxes below it are dropped")
    nms: UpToOne = note(0.5, "IoU above which the weaker of two boxes of a class is dropped")
    detections: Positive = note(100, "most boxes per image")
    draw_threshold: BelowOne = note(0.3, "what pictures show")


class PoseEvaluateConfig(EvaluateConfig):
    """How joints are read from heatmaps."""

    flip_test: bool = note(True, "average the heatmaps of the image and its mirror image")
    decode: Literal["quarter", "dark"] = note("quarter", "sub-pixel rule, quarter-pixel shift or DARK")
    draw_threshold: BelowOne = note(0.3, "what pictures show")
