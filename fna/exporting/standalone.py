"""Run a network that `fna export` wrote. This file needs numpy, Pillow and onnxruntime, and neither fna nor torch.

    from predict import Exported

    network = Exported("exported")  # the folder of network.onnx, or one of its .onnx files
    network.predict("photo.jpg")

    python predict.py photo.jpg ...  # from the command line

What it does with an image is what `fna predict` does: the image is brought to the network's own size (the input scale
of the target is in it), and the answer is in the image's pixels.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Array = np.ndarray[Any, Any]
LARGEST_GROWTH = math.log(1000 / 16)  # of a box over its anchor, as torchvision's


class Exported:
    """An exported network.

    Args:
        path: a folder with network.onnx, the file itself, or its content.
        providers: onnxruntime's, in order of preference.
        threads: of the CPU; 0: onnxruntime's own choice.

    Attributes:
        about: its task, classes, sizes and thresholds, from the file's metadata.
        size: images, height and width it is fixed to; None where any will do (multiples of 32).
    """

    def __init__(
        self, path: str | Path | bytes, providers: tuple[str, ...] = ("CPUExecutionProvider",), threads: int = 0
    ) -> None:
        import onnxruntime

        file: str | bytes = path if isinstance(path, bytes) else str(_find(Path(path)))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(file, options, providers=list(providers))
        text = self.session.get_modelmeta().custom_metadata_map.get("fna")
        if text is None:
            raise ValueError("the network was not written by fna export: it does not describe itself")
        self.about: dict[str, Any] = json.loads(text)
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.size = [n if isinstance(n, int) else None for n in self.session.get_inputs()[0].shape[:3]]

    def maps(self, images_NHW3: Array, names: list[str] | None = None) -> dict[str, Array]:
        """Return what the graph gives.

        Args:
            images_NHW3: RGB, uint8; height and width multiples of 32.
            names: of the outputs that are wanted; None: all.

        Raises:
            ValueError: the images are of another type or size.
        """
        multiple, shape = self.about["multiple"], images_NHW3.shape
        if images_NHW3.dtype != np.uint8 or images_NHW3.ndim != 4 or shape[3] != 3:
            raise ValueError(f"expected uint8 pixels (images, height, width, 3), got {images_NHW3.dtype} {shape}")
        if shape[1] % multiple or shape[2] % multiple or 0 in shape:
            raise ValueError(f"height and width must be multiples of {multiple}, got {shape[1]}x{shape[2]}; pad them")
        for given, fixed, what in zip(shape, self.size, ("images", "height", "width"), strict=False):
            if fixed is not None and given != fixed:
                raise ValueError(f"the network is fixed to {what} {fixed}, got {given}; export it with free sizes")
        names = names or self.outputs
        values = self.session.run(names, {"images": np.ascontiguousarray(images_NHW3)})
        return dict(zip(names, values, strict=True))

    def predict(self, image: Any, box: Any = None) -> Any:
        """Return what the network sees in an image, in the image's own pixels.

        Args:
            image: a file, a PIL image, or RGB pixels, uint8 (height, width, 3).
            box: where the person of a pose is: x0, y0, width, height in pixels; None: the image is one person.

        Returns:
            Segmentation: class ids (height, width). Detection: a dict of ``boxes`` (n, 4), x0, y0, x1, y1, ``scores``
            and ``labels``, best first. Pose: a dict of ``points`` (joints, 3), x, y and score, ``box`` and ``score``.
        """
        pixels = _pixels(image)
        if self.about["task"] == "segmentation":
            return self._segment(pixels)
        return self._detect(pixels) if self.about["task"] == "detection" else self._pose(pixels, box)

    # --- segmentation

    def _segment(self, pixels: Array) -> Array:
        about, own = self.about, pixels.shape[:2]
        base = about["eval_size"] or own
        size = tuple(max(1, round(side * about["eval_scale"])) for side in base)
        view = _resized(pixels, size)
        if "window" not in about and size == own:
            ids: Array = self._padded(view, "labels")[0]
            return ids
        scores = self._slide(view) if "window" in about else self._padded(view, "logits")[0]
        labels: Array = upsampled(scores, own).argmax(0).astype(np.uint8)
        return labels

    def _padded(self, view: Array, name: str) -> Array:
        """Run a view of any size: padded bottom and right, and the maps cut again."""
        height, width = view.shape[:2]
        sides = [fixed or -(-side // 32) * 32 for side, fixed in zip((height, width), self.size[1:], strict=True)]
        if sides[0] < height or sides[1] < width:
            raise ValueError(f"the network is fixed to {sides[0]}x{sides[1]}, the image needs {height}x{width}")
        canvas = _canvas(sides, self.about["fill_rgb"])
        canvas[:height, :width] = view
        return self.maps(self._batch(canvas), [name])[name][:1, ..., :height, :width]

    def _batch(self, view: Array) -> Array:
        """Repeat a view as often as a fixed batch wants it."""
        return np.repeat(view[None], self.size[0] or 1, 0)

    def _slide(self, view: Array) -> Array:
        """Return class probabilities averaged over overlapping windows."""
        (height, width), overlap = view.shape[:2], self.about["overlap"]
        tall, wide = min(self.about["window"][0], height), min(self.about["window"][1], width)
        total, count = np.zeros((len(self.about["classes"]), height, width), np.float32), np.zeros((height, width))
        for top in _offsets(height, tall, overlap):
            for left in _offsets(width, wide, overlap):
                part = _softmax(self._padded(view[top : top + tall, left : left + wide], "logits")[0], 0)
                total[:, top : top + tall, left : left + wide] += part
                count[top : top + tall, left : left + wide] += 1
        mean: Array = total / count
        return mean

    # --- detection

    def _detect(self, pixels: Array) -> dict[str, Array]:
        about, (height, width) = self.about, pixels.shape[:2]
        canvas = list(about["canvas"])
        resized = canvas
        if about["letterbox"]:
            if (canvas[0] - canvas[1]) * (height - width) < 0:
                canvas = canvas[::-1]  # one of image and canvas is upright, the other lying
            factor = min(canvas[0] / height, canvas[1] / width)
            resized = [min(c, max(1, round(n * factor))) for c, n in zip(canvas, (height, width), strict=True)]
        view = _canvas([-(-side // 32) * 32 for side in canvas], about["fill_rgb"])
        view[: resized[0], : resized[1]] = _resized(pixels, tuple(resized))
        maps = self.maps(self._batch(view))
        boxes, scores, labels = detections(maps["logits"][0], maps["deltas"][0], maps["anchors"], view.shape[:2], about)
        boxes = boxes / np.array([resized[1] / width, resized[0] / height] * 2, np.float32)
        boxes = boxes.clip(0, np.array([width, height] * 2, np.float32))
        there = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return {"boxes": boxes[there], "scores": scores[there], "labels": labels[there]}

    # --- pose

    def _pose(self, pixels: Array, box: Any) -> dict[str, Any]:
        about, (height, width) = self.about, pixels.shape[:2]
        tall, wide = about["crop"]
        x0, y0, w, h = (0.0, 0.0, float(width), float(height)) if box is None else (float(value) for value in box)
        padding = 1.0 if box is None else about["box_padding"]
        step = padding * max(max(1.0, w) / wide, max(1.0, h) / tall)  # image pixels per crop pixel
        left, top = x0 + w / 2 - wide / 2 * step, y0 + h / 2 - tall / 2 * step
        crop = _cut(pixels, left, top, step, (tall, wide), about["fill_rgb"])
        heatmaps = self.maps(self._batch(crop))["heatmaps"][0]
        if about["swap"]:
            mirrored = self.maps(self._batch(crop[:, ::-1]))["heatmaps"][0]
            heatmaps = (heatmaps + mirrored[about["swap"], :, ::-1]) / 2
        points = joints(heatmaps, about)
        sure = points[points[:, 2] > about["sure"], 2]
        points[:, :2] = points[:, :2] * step + (left - 0.5, top - 0.5)  # 0 is the centre of the image's first pixel
        score = float(min(sure.mean(), 1)) if len(sure) else 0.0
        return {"points": points.astype(np.float32), "box": np.array([x0, y0, w, h], np.float32), "score": score}


# --- reading maps: what a program in another language has to do -------------------------------------------------------


def detections(
    logits_AC: Array, deltas_A4: Array, anchors_A4: Array, size_hw: Any, about: dict[str, Any]
) -> tuple[Array, Array, Array]:
    """Return boxes (n, 4) in pixels of the view, scores and labels, best first: the best anchors, decoded, and NMS."""
    candidates, threshold = about["candidates"], about["score_threshold"]
    anchors, labels, scores = [], [], []
    if "strides" in about:  # the best of all classes on each level
        scores_AC, start = 1 / (1 + np.exp(-logits_AC.astype(np.float32))), 0
        for stride in about["strides"]:
            number = about["cells"] * -(-size_hw[0] // stride) * -(-size_hw[1] // stride)
            flat = scores_AC[start : start + number].ravel()
            above = np.flatnonzero(flat > threshold)
            best = above[np.argsort(-flat[above], kind="stable")[:candidates]]
            anchors.append(start + best // scores_AC.shape[1])
            labels.append(best % scores_AC.shape[1])
            scores.append(flat[best])
            start += number
    else:  # the best of each class on all levels; class 0 of the logits is the background
        scores_AC = _softmax(logits_AC.astype(np.float32), 1)[:, 1:]
        for label, scores_A in enumerate(scores_AC.T):
            best = np.argsort(-scores_A, kind="stable")[:candidates]
            best = best[scores_A[best] > threshold]
            anchors.append(best)
            labels.append(np.full(len(best), label))
            scores.append(scores_A[best])
    anchor, label_n, score_n = np.concatenate(anchors), np.concatenate(labels), np.concatenate(scores)
    boxes = decoded(deltas_A4[anchor], anchors_A4[anchor], about["coder"])
    boxes = boxes.clip(0, np.array([size_hw[1], size_hw[0]] * 2, np.float32))
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, score_n, label_n = boxes[inside], score_n[inside], label_n[inside]
    keep = kept(boxes, score_n, label_n, about["nms"])[: about["detections"]]
    return boxes[keep], score_n[keep], label_n[keep]


def decoded(deltas_n4: Array, anchors_n4: Array, weights: Any) -> Array:
    """Return boxes x0, y0, x1, y1 from what the network says of anchors: shifts over their sides, logs of growth."""
    size = anchors_n4[:, 2:] - anchors_n4[:, :2]
    centre = anchors_n4[:, :2] + size / 2
    shift = deltas_n4[:, :2] / np.array(weights[:2], np.float32)
    growth = np.minimum(deltas_n4[:, 2:] / np.array(weights[2:], np.float32), LARGEST_GROWTH)
    middle, half = centre + shift * size, np.exp(growth) * size / 2
    return np.concatenate([middle - half, middle + half], 1).astype(np.float32)


def kept(boxes_n4: Array, scores_n: Array, labels_n: Array, most: float) -> Array:
    """Return the boxes, best first, that overlap no better one of their class by an IoU above `most`."""
    order = np.argsort(-scores_n, kind="stable")
    area = (boxes_n4[:, 2:] - boxes_n4[:, :2]).prod(1)
    found = []
    while len(order):
        best, order = order[0], order[1:]
        found.append(best)
        corner = np.maximum(boxes_n4[best, :2], boxes_n4[order, :2])
        overlap = (np.minimum(boxes_n4[best, 2:], boxes_n4[order, 2:]) - corner).clip(0).prod(1)
        iou = overlap / (area[best] + area[order] - overlap)
        order = order[(iou <= most) | (labels_n[order] != labels_n[best])]
    return np.array(found, np.int64)


def joints(heatmaps_KHW: Array, about: dict[str, Any]) -> Array:
    """Return x, y in pixels of the crop, counted from its rim, and the height of the peak of each joint, (K, 3)."""
    number, height, width = heatmaps_KHW.shape
    smooth = _smooth(heatmaps_KHW, about["sigma"]) if about["decode"] == "dark" else heatmaps_KHW
    points = np.zeros((number, 3))
    for k, heatmap in enumerate(heatmaps_KHW):
        row, column = divmod(int(heatmap.argmax()), width)
        offset = [0.0, 0.0]  # a quarter pixel towards the higher neighbour
        if 0 < column < width - 1:
            offset[0] = float(np.sign(heatmap[row, column + 1] - heatmap[row, column - 1])) / 4
        if 0 < row < height - 1:
            offset[1] = float(np.sign(heatmap[row + 1, column] - heatmap[row - 1, column])) / 4
        if about["decode"] == "dark" and 3 <= column < width - 3 and 3 <= row < height - 3:
            offset = _dark(smooth[k, row - 2 : row + 3, column - 2 : column + 3]) or offset
        points[k, 0] = (column + offset[0] + 0.5) * about["stride"]
        points[k, 1] = (row + offset[1] + 0.5) * about["stride"]
        points[k, 2] = heatmap[row, column]
    return points


def _dark(around: Array) -> list[float] | None:
    """Return the offset x, y of a Gaussian's top from the 5 x 5 pixels around a peak (arXiv:1910.06278), if sound."""
    logs = np.log(around.clip(1e-10).astype(np.float64))
    slope_x, slope_y = (logs[2, 3] - logs[2, 1]) / 2, (logs[3, 2] - logs[1, 2]) / 2
    bend_x, bend_y = (logs[2, 4] - 2 * logs[2, 2] + logs[2, 0]) / 4, (logs[4, 2] - 2 * logs[2, 2] + logs[0, 2]) / 4
    twist = (logs[3, 3] - logs[3, 1] - logs[1, 3] + logs[1, 1]) / 4
    determinant = bend_x * bend_y - twist**2
    if determinant <= 0 or bend_x >= 0:
        return None
    offset = [(twist * slope_y - bend_y * slope_x) / determinant, (twist * slope_x - bend_x * slope_y) / determinant]
    return [float(value) for value in offset] if max(map(abs, offset)) < 1.5 else None


def _smooth(heatmaps_KHW: Array, sigma: float) -> Array:
    radius = max(1, round(2.5 * sigma))
    kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (2, 1):
        pads = [(0, 0), (0, 0), (0, 0)]
        pads[axis] = (radius, radius)
        wide, side = np.pad(heatmaps_KHW, pads), heatmaps_KHW.shape[axis]
        heatmaps_KHW = sum(k * np.take(wide, range(i, i + side), axis) for i, k in enumerate(kernel))
    return heatmaps_KHW


def upsampled(scores_CHW: Array, size_hw: Any) -> Array:
    """Return maps at another size, bilinear; sample places are the centres of pixels."""
    for axis, size in ((1, size_hw[0]), (2, size_hw[1])):
        side = scores_CHW.shape[axis]
        if side == size:
            continue
        place = ((np.arange(size) + 0.5) * (side / size) - 0.5).clip(0)
        low = np.minimum(place.astype(int), side - 1)
        high, weight = np.minimum(low + 1, side - 1), (place - low).astype(np.float32)
        weight = weight[:, None] if axis == 1 else weight
        scores_CHW = np.take(scores_CHW, low, axis) * (1 - weight) + np.take(scores_CHW, high, axis) * weight
    return scores_CHW


def _softmax(logits: Array, axis: int) -> Array:
    powers = np.exp(logits - logits.max(axis, keepdims=True))
    shares: Array = powers / powers.sum(axis, keepdims=True)
    return shares


def _find(path: Path) -> Path:
    file = path / "network.onnx" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"there is no {file}; give the folder or the .onnx file that fna export wrote")
    return file


# --- images -----------------------------------------------------------------------------------------------------------


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # they would be clipped
        raise ValueError(
            f"an image of mode {image.mode} has more than 8 bits, which would be clipped; scale it to 8 bits"
        )
    return ImageOps.exif_transpose(image).convert("RGB")


def _pixels(image: Any) -> Array:
    if isinstance(image, str | Path):
        with Image.open(image) as opened:
            image = _rgb(opened)
    elif isinstance(image, Image.Image):
        image = _rgb(image)
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"expected uint8 RGB pixels (height, width, 3), got {pixels.dtype} {pixels.shape}")
    return pixels


def _resized(pixels: Array, size_hw: Any) -> Array:
    if pixels.shape[:2] == tuple(size_hw):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size_hw[1], size_hw[0]), Image.Resampling.BILINEAR))


def _canvas(size_hw: Any, rgb: Any) -> Array:
    return np.tile(np.array(rgb, np.uint8), (size_hw[0], size_hw[1], 1))


def _cut(pixels: Array, left: float, top: float, step: float, size_hw: tuple[int, int], rgb: Any) -> Array:
    """Return a rectangle of the image at another size, filled where it is outside."""
    spans = []
    for start, size, length in ((top, size_hw[0], pixels.shape[0]), (left, size_hw[1], pixels.shape[1])):
        first = min(size, max(0, math.floor(-start / step)))
        stop = max(first, min(size, math.ceil((length - start) / step)))
        spans.append((start + first * step, first, stop))
    (y, up, down), (x, west, east) = spans
    canvas = _canvas(size_hw, rgb)
    if up == down or west == east:
        return canvas
    reach = max(1, math.ceil(step))
    x0, x1 = math.floor(x) - reach, math.ceil(x + (east - west) * step) + reach
    y0, y1 = math.floor(y) - reach, math.ceil(y + (down - up) * step) + reach
    inner = pixels[max(0, y0) : min(pixels.shape[0], y1), max(0, x0) : min(pixels.shape[1], x1)]
    region = _canvas((y1 - y0, x1 - x0), rgb)
    region[max(0, -y0) : max(0, -y0) + inner.shape[0], max(0, -x0) : max(0, -x0) + inner.shape[1]] = inner
    box = (x - x0, y - y0, x - x0 + (east - west) * step, y - y0 + (down - up) * step)
    part = Image.fromarray(region).resize((east - west, down - up), Image.Resampling.BILINEAR, box)
    canvas[up:down, west:east] = np.asarray(part)
    return canvas


def _offsets(size: int, window: int, overlap: float) -> list[int]:
    step = max(int(window * (1 - overlap)), 1)
    number = -(-(size - window) // step) + 1
    return [round(i * (size - window) / max(number - 1, 1)) for i in range(number)]


def main() -> None:
    """Print what the network beside this file sees in images, a line of JSON each.

    Masks become NAME_ids.png, with class ids as grey values; the line has the classes in that order, and their colours.
    """
    network = Exported(Path(__file__).parent)
    classes = network.about["classes"]
    for name in sys.argv[1:]:
        found = network.predict(name)
        if isinstance(found, np.ndarray):
            mask = Path(f"{Path(name).stem}_ids.png")
            Image.fromarray(found).save(mask)
            found = {"ids": str(mask), "classes": network.about["colors"]}
        elif "labels" in found:
            found["names"] = [classes[label] for label in found["labels"]]
        plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in found.items()}
        print(json.dumps({"file": name, **plain}))


if __name__ == "__main__":
    main()
