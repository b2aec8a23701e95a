"""Decode image and mask files completely, by stated rules; whatever else a file holds is an `FnaError` that names it.

Images become 8-bit RGB: grey is repeated, palettes are looked up, CMYK and YCbCr are converted, alpha is dropped, and
of 16-bit RGB the high byte is kept. 16-bit grey, 32-bit and float images are refused: only the user knows what their
white is. Of an animation the first frame counts. An EXIF orientation is applied, to images and to masks.

Masks hold a label per pixel: 8- or 16-bit grey, a palette's indices, or black and white (0 and 1); or, where labels are
colours, RGB or a palette's colours. RGB of equal channels is grey.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fna.data.places import ENDINGS
from fna.data.stamps import Stamp
from fna.errors import FnaError, nearest

MAX_PIXELS = 89_478_485  # Pillow's own limit: 1/4 GB of RGB
MAX_BYTES = 2**30  # of a file, more than that many pixels ever take
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP")  # JPEG includes MPO, what many cameras write
RGB_MODES = ("RGB", "L", "1", "LA", "La", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
MASK_MODES = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L")
RGB_MASKS = ("RGB", "RGBA", "LA")
STRETCHED = {"L;2": 85, "L;4": 17}  # Pillow stretches 2- and 4-bit grey to 0..255; labels must not be


def read_image(path: Path, stamps: dict[Path, Stamp] | None = None) -> NDArray[np.uint8]:
    """Read an image.

    Args:
        path: a file of one of `FORMATS`, whatever its ending.
        stamps: where the file's stamp is put, if it is wanted.

    Returns:
        RGB pixels, uint8, shape (height, width, 3).

    Raises:
        FnaError: the file is missing, broken, too large, or of a kind this module's rules refuse.
    """
    image, _ = _decode(path, _content(path, stamps))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    if image.mode not in RGB_MODES:
        raise FnaError(f"{path} has pixels of mode {image.mode}; expected 8 bits a channel: convert it to 8-bit RGB")
    return np.array(image.convert("RGB"))


def to_pixels(image: Any) -> NDArray[np.uint8]:
    """Return the RGB pixels of a PIL image, upright, or of an array that holds them already.

    Raises:
        FnaError: it is neither, or has more than 8 bits, which would be clipped.
    """
    if isinstance(image, Image.Image):
        if image.mode[0] in "IF":
            raise FnaError(
                f"an image of mode {image.mode} has more than 8 bits, which would be clipped; scale it to 8 bits"
            )
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return np.array(image, order="C")  # torch takes no views that run backwards or cannot be written
    what = f"an array of {image.dtype}, shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise FnaError(f"an image is a path, a PIL image, or uint8 RGB (height, width, 3), not {what}")


def read_mask(
    path: Path, stamps: dict[Path, Stamp] | None = None, colored: bool = False
) -> NDArray[np.int32] | NDArray[np.uint8]:
    """Read a label mask.

    Args:
        path: a file of one of `FORMATS`; use PNG, as JPEG changes labels.
        stamps: where the file's stamp is put, if it is wanted.
        colored: labels are colours, 65536 x red + 256 x green + blue.

    Returns:
        Labels as in the file, shape (height, width).

    Raises:
        FnaError: the file is missing, broken, too large, or not a single channel of whole numbers.
    """
    image, stretch = _decode(path, _content(path, stamps))
    if image.format in ("JPEG", "MPO"):
        raise FnaError(f"the mask {path} is a JPEG, which blurs labels; save masks as PNG")
    if colored or image.mode in RGB_MASKS:
        colors_HW3 = np.array((image.convert("RGBA") if image.mode == "P" else image).convert("RGB"))
        red, green, blue = (colors_HW3[..., channel] for channel in range(3))
        if colored:
            packed_HW: NDArray[np.int32] = red.astype(np.int32) << 16 | green.astype(np.int32) << 8 | blue
            return packed_HW
        if (red == green).all() and (red == blue).all():
            return np.ascontiguousarray(red)
    if image.mode not in MASK_MODES:
        raise FnaError(
            f"the mask {path} has pixels of mode {image.mode}; expected one channel of label numbers (mode L or P); of "
            "masks in colours, data.labels says the classes, such as --data.labels '{\"#804000\": road}'"
        )
    labels = np.array(image)
    if labels.dtype in (np.bool_, np.uint8):
        return labels.astype(np.uint8) // np.uint8(stretch)
    return labels.astype(np.int32)


def only_images(names: Sequence[str]) -> list[str]:
    """Return the names that end like images, or all if none does: a json beside an image is no image.

    >>> only_images(["a.json", "a.JPG"])
    ['a.JPG']
    """
    return [name for name in names if os.path.splitext(name)[1].lower() in ENDINGS] or list(names)


def mask_palette(path: Path) -> list[tuple[int, int, int]] | None:
    """Return the colours that a mask's file gives to its indices; None: it has none, or cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            colors = image.getpalette("RGB") if image.mode == "P" else None
    except Exception:  # a broken file may raise anything; whoever decodes it will say so
        return None
    if colors is None:
        return None
    return list(zip(colors[::3], colors[1::3], colors[2::3], strict=True))


def _decode(path: Path, content: bytes) -> tuple[Image.Image, int]:
    """Return the decoded, upright image and by how much Pillow stretched its grey values."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                megapixels = MAX_PIXELS / 1e6
                raise FnaError(
                    f"{path} is {image.width}x{image.height}; more than {megapixels:.0f} megapixels are refused"
                )
            stretch = STRETCHED.get(_raw_mode(image), 1)
            file_format = image.format
            image.load()
            upright = ImageOps.exif_transpose(image)
            upright.format = file_format
            return upright, stretch
    except FnaError:
        raise
    except UnidentifiedImageError as error:
        raise FnaError(f"{path} is not an image: it begins with {repr(content[:16])[1:]}") from error
    except Exception as error:  # a broken file may raise anything inside its decoder
        raise FnaError(f"{path} cannot be decoded: {error or type(error).__name__}") from error


def _raw_mode(image: Any) -> str:
    """Return how the pixels lie in the file ('L;4'), or ''."""
    args = image.tile[0].args if image.tile else ()
    return args if isinstance(args, str) else str(args[0]) if args else ""


def _content(path: Path, stamps: dict[Path, Stamp] | None) -> bytes:
    """Return the bytes of a file, and note its stamp."""
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise FnaError(f"{path} is not a file")
        if info.st_size == 0:
            raise FnaError(f"{path} is empty (0 bytes)")
        if info.st_size > MAX_BYTES:
            raise FnaError(f"{path} has {info.st_size / 1e9:.1f} GB; more than {MAX_BYTES / 1e9:.1f} are refused")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FnaError(f"{path} is missing{_neighbour(path)}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FnaError(f"{path} cannot be opened: {reason}") from error
    if stamps is not None:
        stamps[path] = Stamp(info.st_size, info.st_mtime_ns, hashlib.sha256(content).hexdigest())
    return content


def _neighbour(path: Path) -> str:
    try:
        return nearest(path.name, os.listdir(path.parent))
    except OSError:
        return f" (there is no folder {path.parent})"
