"""What others train with: their networks, their transforms and loops, on the same encoder, images and batch sizes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead, _extra_block
from torchvision.transforms import v2

from fna.training.compute import Compute

ENCODER = "tf_efficientnet_lite0"
IGNORED = 255
EXTRAS = (512, 256, 256, 128)  # channels of the maps that SSDLite adds to the encoder's
NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SmpNetwork(nn.Module):
    """The encoder in segmentation_models_pytorch's parts, as near to our DeepLabv3 as they allow.

    Its DeepLabV3 decoder has a further 3x3 convolution and dropout, which are left out: they would slow it down.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPP
        from segmentation_models_pytorch.encoders import get_encoder

        self.encoder = get_encoder(f"tu-{ENCODER}", depth=5, weights=None, output_stride=16)
        self.aspp = ASPP(self.encoder.out_channels[-1], 256, (6, 12, 18), separable=True, dropout=0.0)
        self.classifier = nn.Conv2d(256, classes, 1)

    def forward(self, images_N3HW: Tensor) -> Tensor:
        """Return logits at the size of the images."""
        logits = self.classifier(self.aspp(self.encoder(images_N3HW)[-1]))
        return nn.functional.interpolate(logits, size=images_N3HW.shape[2:], mode="bilinear", align_corners=False)


class Pyramid(nn.Module):
    """The encoder's maps of stride 16 and 32, and four smaller ones, as torchvision's SSDLite has them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = timm.create_model(ENCODER, features_only=True, out_indices=(3, 4))
        channels = [cast(Any, self.encoder).feature_info.channels()[-1], *EXTRAS]
        self.extra = nn.ModuleList(_extra_block(*pair, NORM) for pair in pairwise(channels))

    def forward(self, images_N3HW: Tensor) -> OrderedDict[str, Tensor]:
        """Return the six maps, the largest first."""
        maps = self.encoder(images_N3HW)
        for block in self.extra:
            maps.append(block(maps[-1]))
        return OrderedDict((str(i), x_NCHW) for i, x_NCHW in enumerate(maps))


def torchvision_ssdlite(classes: int, size_hw: tuple[int, int]) -> SSD:
    """Return torchvision's SSDLite on the encoder.

    Args:
        classes: how many, without the background.
        size_hw: what it resizes images to.
    """
    pyramid, boxes = Pyramid(), DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
    with torch.no_grad():
        channels = [x_NCHW.shape[1] for x_NCHW in pyramid.eval()(torch.zeros(1, 3, *size_hw)).values()]
    head = SSDLiteHead(channels, boxes.num_anchors_per_location(), classes + 1, NORM)
    return SSD(pyramid.train(), boxes, size_hw[::-1], classes + 1, image_mean=MEAN, image_std=STD, head=head)


class Records(Dataset[Any]):
    """Records of a split through transforms of torchvision's: an image with its label map, or with boxes."""

    def __init__(self, data: Any, transform: Callable[..., Any]) -> None:
        self.data, self.transform = data, transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        image_3HW, truth = self.data.load(i)
        image = tv_tensors.Image(image_3HW)
        if isinstance(truth, Tensor):
            return self.transform(image, tv_tensors.Mask(truth))
        boxes = tv_tensors.BoundingBoxes(truth["boxes"], format="XYXY", canvas_size=image_3HW.shape[1:])
        return self.transform(image, {"boxes": boxes, "labels": truth["labels"] + 1})


def segmentation_loop(problem: Any, data: Any, compute: Compute) -> Iterator[None]:
    """Train a network of segmentation_models_pytorch on crops; take a step each time.

    Args:
        problem: of segmentation.
        data: its training split.
        compute: where, and with how many workers.
    """
    config, (height, width) = problem.config, problem.config.data.crop
    transform = v2.Compose(
        [
            v2.RandomResize(int(config.data.scale[0] * height), int(config.data.scale[1] * height)),
            v2.RandomCrop((height, width), pad_if_needed=True, fill={tv_tensors.Mask: IGNORED, "others": 0}),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.5, 0.5, 0.5),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    network = compute.move(SmpNetwork(len(problem.labels.classes))).train()
    optimizer = _optimizer(network)
    criterion = nn.CrossEntropyLoss(ignore_index=IGNORED)
    for images, labels in _batches(Records(data, transform), config.adapt.batch_size, compute):
        images_N3HW = images.to(compute.device, memory_format=torch.channels_last, non_blocking=True)
        with compute.autocast():
            loss = criterion(network(images_N3HW), labels.to(compute.device, non_blocking=True))
        _descend(optimizer, loss)
        yield


def detection_loop(problem: Any, data: Any, compute: Compute) -> Iterator[None]:
    """Train torchvision's SSDLite as its references do; take a step each time.

    Args:
        problem: of detection.
        data: its training split.
        compute: where, and with how many workers.

    Source: https://github.com/pytorch/vision/tree/main/references/detection (preset ``ssdlite``)
    """
    config = problem.config
    transform = v2.Compose(
        [
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.SanitizeBoundingBoxes(),
        ]
    )
    network = torchvision_ssdlite(len(problem.labels.classes), config.data.crop).to(compute.device).train()
    optimizer = _optimizer(network)
    for images, targets in _batches(Records(data, transform), config.adapt.batch_size, compute, _together):
        with compute.autocast():
            losses = network(
                [image.to(compute.device) for image in images],
                [{key: value.to(compute.device) for key, value in target.items()} for target in targets],
            )
            loss = sum(losses.values())
        loss.item()  # the references look at it in each iteration
        _descend(optimizer, loss)
        yield


def _optimizer(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=4e-5)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _together(samples: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*samples, strict=True))


def _batches(records: Records, size: int, compute: Compute, collate: Any = None) -> Iterator[Any]:
    """Yield batches of an epoch after the other."""
    loader = DataLoader(
        records,
        batch_size=size,
        shuffle=True,
        drop_last=True,
        num_workers=compute.workers,
        collate_fn=collate,
        pin_memory=compute.device.type == "cuda",
        persistent_workers=compute.workers > 0,
    )
    while True:
        yield from loader
