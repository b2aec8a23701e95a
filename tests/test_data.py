"""Data sets: what is read, what is refused and how it is said, and the laws of crops, samplers and loaders."""

from __future__ import annotations

import os
import signal
import struct
import zlib
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fna.config import SegmentationDataConfig as DataConfig
from fna.data.augmenting import FILL_RGB
from fna.data.decoding import read_image, read_mask
from fna.data.listing import IGNORE, Legend, Listing, overlap
from fna.data.sampling import Loader, StepSampler, split_indices
from fna.data.segmentation import FORMATS, cityscapes, open_data
from fna.data.segmentation.pixels import SegmentationData
from fna.data.segmentation.polygons import draw_polygons
from fna.data.segmentation.transforms import TrainView, collate, draw_window
from fna.errors import FnaError
from fna.rng import generator

H, W = 40, 48
LAWS = settings(max_examples=60, deadline=None)
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# --- data sets made on the fly ----------------------------------------------------------------------------------------


def picture(number: int = 0, size_hw: tuple[int, int] = (H, W)) -> np.ndarray[Any, Any]:
    return np.random.default_rng(number).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def labels(
    number: int = 0, values: Sequence[int] = (0, 1, 2), size_hw: tuple[int, int] = (H, W)
) -> np.ndarray[Any, Any]:
    return np.random.default_rng(number).choice(np.array(values, np.uint8), size_hw)


def save(path: Path, pixels: np.ndarray[Any, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def make_camvid(root: Path, split: str = "train", n: int = 3) -> DataConfig:
    for i in range(n):
        save(root / split / f"{split}{i}.png", picture(i))
        save(root / f"{split}annot" / f"{split}{i}.png", labels(i, (0, 1, 11)))
    names = [f"{split}{i}.png" for i in range(n)]
    write(root / f"{split}.txt", "".join(f"/Sb/CamVid/{split}/{s} /Sb/CamVid/{split}annot/{s}\n" for s in names))
    return DataConfig(format="camvid", root=str(root))


def make_cityscapes(root: Path, split: str = "train", n: int = 3, kind: str = "labelIds") -> DataConfig:
    values = (0, 7, 33) if kind == "labelIds" else (IGNORE, 0, 18)
    for i in range(n):
        save(root / "leftImg8bit" / split / "ulm" / f"ulm_{split}_{i}_leftImg8bit.png", picture(i))
        save(root / "gtFine" / split / "ulm" / f"ulm_{split}_{i}_gtFine_{kind}.png", labels(i, values))
    return DataConfig(format="cityscapes", root=str(root))


def make_voc(root: Path, split: str = "train", n: int = 3) -> DataConfig:
    for i in range(n):
        save(root / "JPEGImages" / f"{split}_{i}.jpg", picture(i))
        mask = Image.fromarray(labels(i, (0, 20, 255)))
        mask.putpalette([value // 3 for value in range(768)])
        (root / "SegmentationClass").mkdir(exist_ok=True)
        mask.save(root / "SegmentationClass" / f"{split}_{i}.png")
    write(root / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{split}_{i}\n" for i in range(n)))
    return DataConfig(format="voc", root=str(root))


def make_folder(root: Path, split: str = "train", n: int = 3) -> DataConfig:
    for i in range(n):
        save(root / "images" / "a" / f"{split}.{i}.jpg", picture(i))
        save(root / "masks" / "a" / f"{split}.{i}.png", labels(i, (0, 1, 9)))
    write(root / f"{split}.txt", "".join(f"a/{split}.{i}{'.jpg' * (i % 2)}\n" for i in range(n)))
    return DataConfig(format="folder", root=str(root), classes=("soil", "leaf"), ignore_label=9)


def make_synthetic(root: Path, split: str = "train", n: int = 3) -> DataConfig:
    return DataConfig(format="synthetic", images=n)


def make_pairs(root: Path, split: str = "train", n: int = 3) -> DataConfig:
    for i in range(n):
        save(root / "images" / split / f"{split}{i}.jpg", picture(i))
        save(root / "annotations" / split / f"{split}{i}.png", labels(i, (0, 1, 9)))
    return DataConfig(format="pairs", root=str(root), classes=("soil", "leaf"), ignore_label=9)


def make_auto(root: Path, split: str = "train", n: int = 3) -> DataConfig:
    return make_pairs(root, split, n).model_copy(update={"format": "auto"})


def make_yolo(root: Path, split: str = "train", n: int = 3) -> DataConfig:
    for i in range(n):
        save(root / "images" / split / f"{split}{i}.jpg", picture(i))
        write(root / "labels" / split / f"{split}{i}.txt", "0 0.1 0.1 0.9 0.1 0.5 0.9\n")
    write(root / "data.yaml", "names: [leaf]\n")
    return DataConfig(format="yolo", root=str(root))


MAKERS: dict[str, Callable[..., DataConfig]] = {
    "auto": make_auto,
    "camvid": make_camvid,
    "cityscapes": make_cityscapes,
    "folder": make_folder,
    "pairs": make_pairs,
    "synthetic": make_synthetic,
    "voc": make_voc,
    "yolo": make_yolo,
}
ON_DISK = sorted(name for name, reader in FORMATS.items() if reader.on_disk)


def memory(n: int, size_hw: tuple[int, int] = (H, W), values: Sequence[int] = (0, 1, 2, 9)) -> SegmentationData:
    """Data without files: classes a, b, c, and label 9 to ignore."""

    def read(position: int) -> Any:
        return picture(position, size_hw), labels(position, values, size_hw)

    names = tuple(f"{i}.png" for i in range(n))
    table = {0: 0, 1: 1, 2: 2, 9: IGNORE}
    return SegmentationData(Listing(names, Legend(("a", "b", "c"), ((0, 0, 0),) * 3, table), read), "a test")


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_keeps_the_contract_of_a_split(tmp_path: Path, name: str) -> None:
    config = MAKERS[name](tmp_path)
    data = open_data(config, "train")
    assert len(data) == 3
    assert len(data.classes) == len(data.colors) == len(set(data.classes))
    assert data.skipped == []
    assert len({data.name(i) for i in range(3)}) == 3
    for i in range(3):
        image, mask = data.load(i)
        assert (image.dtype, mask.dtype) == (torch.uint8, torch.uint8)
        assert tuple(image.shape) == (3, *mask.shape)
        assert set(mask.unique().tolist()) <= {*range(len(data.classes)), IGNORE}


@pytest.mark.parametrize("name", ON_DISK)
def test_a_missing_root_or_split_shows_the_layout_and_the_nearest_name(tmp_path: Path, name: str) -> None:
    config = MAKERS[name](tmp_path / "data")
    layout = FORMATS[name].layout
    for root, hint in ((None, "--data.root PATH"), (str(tmp_path / "dato"), "did you mean 'data'")):
        with pytest.raises(FnaError, match=hint) as error:
            open_data(config.model_copy(update={"root": root}), "train")
        assert layout in str(error.value)
    found = "pairs" if name == "auto" else name  # the layout that was recognised
    hint = "of 'trian'" if found in ("pairs", "yolo") else "did you mean 'train'"  # of any folder, none is the nearest
    with pytest.raises(FnaError, match=hint) as error:
        open_data(config, "trian")
    assert FORMATS[found].layout in str(error.value)


@pytest.mark.parametrize(("name", "file"), [("camvid", "train.txt"), ("folder", "train.txt")])
@pytest.mark.parametrize(("content", "what"), [(b" \n\n", "lists nothing"), (b"\xff\xfe\x00", "UTF-8")])
def test_a_split_file_without_records_or_text_is_refused(
    tmp_path: Path, name: str, file: str, content: bytes, what: str
) -> None:
    config = MAKERS[name](tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(FnaError, match=what):
        open_data(config, "train")


def test_camvid_names_the_line_it_cannot_read(tmp_path: Path) -> None:
    config = make_camvid(tmp_path)
    write(tmp_path / "train.txt", "train/train0.png trainannot/train0.png\nonly-one.png\n")
    with pytest.raises(FnaError, match=r"train\.txt, line 2 is 'only-one\.png'"):
        open_data(config, "train")


def test_camvid_lists_of_another_machine_are_rebased(tmp_path: Path) -> None:
    data = open_data(make_camvid(tmp_path), "train")
    image, mask = data.load(1)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), picture(1))
    expected = labels(1, (0, 1, 11))
    np.testing.assert_array_equal(mask.numpy(), np.where(expected == 11, IGNORE, expected))


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes_reads_both_kinds_of_masks_alike(tmp_path: Path, kind: str) -> None:
    data = open_data(make_cityscapes(tmp_path, kind=kind), "train")
    ids = {"labelIds": (0, 7, 33), "labelTrainIds": (IGNORE, 0, 18)}[kind]
    wanted = np.select([labels(2, ids) == value for value in ids], (IGNORE, 0, 18))
    np.testing.assert_array_equal(data.load(2)[1].numpy(), wanted)
    assert (data.classes[0], data.classes[18]) == ("road", "bicycle")


def test_cityscapes_label_ids_rise_with_the_train_ids() -> None:
    ids = [label_id for label_id, _ in cityscapes.CLASSES.values()]
    assert ids == sorted(set(ids))
    assert len(ids) == 19


def test_voc_palette_is_the_published_one() -> None:
    from fna.data.listing import VOC_CLASSES, palette

    colors = dict(zip(VOC_CLASSES, palette(21), strict=True))
    assert colors["aeroplane"] == (128, 0, 0)
    assert colors["person"] == (192, 128, 128)
    assert colors["tvmonitor"] == (0, 64, 128)


@pytest.mark.parametrize("classes", [None, ("one",), ("leaf", "leaf"), tuple(map(str, range(254)))])
def test_folder_needs_two_to_253_different_classes(tmp_path: Path, classes: tuple[str, ...] | None) -> None:
    config = make_folder(tmp_path).model_copy(update={"classes": classes})
    with pytest.raises(FnaError, match=r"data\.classes"):
        open_data(config, "train")


def test_folder_refuses_a_stem_of_two_images(tmp_path: Path) -> None:
    config = make_folder(tmp_path)
    save(tmp_path / "images" / "a" / "train.0.png", picture())
    with pytest.raises(FnaError, match=r"may be a/train\.0\.jpg or a/train\.0\.png"):
        open_data(config, "train")


def test_polygons_are_drawn_as_they_are(tmp_path: Path) -> None:
    """Against the ellipse that a polygon of many corners is, half a pixel up or down."""
    turn = np.linspace(0, 2 * np.pi, 200)[:-1]
    corners = np.stack([0.5 + 0.4 * np.cos(turn), 0.4 + 0.3 * np.sin(turn)], 1)
    write(tmp_path / "x.txt", "3 " + " ".join(map(str, corners.ravel())) + "\n\n0 0 0 0.25 0 0.25 0.25 0 0.25\n")
    mask_HW = draw_polygons(tmp_path / "x.txt", (60, 80))
    rows, columns = np.mgrid[:60, :80] + 0.5

    def ellipse(more: float) -> Any:
        return ((columns - 40) / (32 + more)) ** 2 + ((rows - 24) / (18 + more)) ** 2 < 1

    assert (mask_HW[:15, :20] == 1).all(), "the later one is on top"
    drawn = mask_HW == 4
    rest = np.ones_like(drawn)
    rest[:15, :20] = False
    assert (drawn | ~rest)[ellipse(-0.5)].all()
    assert not (drawn & ~ellipse(0.5)).any()
    assert set(np.unique(mask_HW)) == {0, 1, 4}
    assert not draw_polygons(tmp_path / "none.txt", (60, 80)).any()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.1 0.1", r"train0\.txt, line 1 is a box, not a polygon; boxes are for detection"),
        ("0 0.5 0.5 0.1", "4 numbers; expected a class and three corners"),
        ("0 a b", "expected numbers"),
        ("0 0 0 1 1 nan 1", "7 numbers; expected"),
        ("7 0 0 1 1 0 1", r"unknown labels: 8 .*known: 0\.\.1"),
    ],
)
def test_lines_that_are_no_polygons_are_told(tmp_path: Path, line: str, said: str) -> None:
    config = make_yolo(tmp_path)
    write(tmp_path / "labels" / "train" / "train0.txt", line)
    with pytest.raises(FnaError, match=said):
        open_data(config, "train")


def test_polygons_of_classes_that_are_not_wanted_are_background(tmp_path: Path) -> None:
    config = make_yolo(tmp_path)
    write(tmp_path / "data.yaml", "names: [leaf, stem]\n")
    write(tmp_path / "labels" / "train" / "train0.txt", "1 0 0 1 0 1 1 0 1\n")
    data = open_data(config.model_copy(update={"classes": ("leaf",)}), "train")
    assert data.classes == ("background", "leaf")
    assert not data.load(0)[1].any()
    assert data.load(1)[1].any()
    again = open_data(config, "train", data.to_index(tmp_path))
    assert torch.equal(again.load(1)[1], data.load(1)[1])


def test_real_camvid(shared: Path) -> None:
    root = shared / "data" / "camvid"
    config = DataConfig(root=str(root), cache_gb=0)
    train, val = FORMATS["camvid"].read(root, "train", config), open_data(config, "val")
    assert (len(train.names), len(val), len(val.classes)) == (367, 101, 11)
    assert train.read(366)[0].shape == (360, 480, 3)
    assert not {*train.names} & {val.name(i) for i in range(101)}


# --- bad records ------------------------------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def bomb(path: Path) -> None:
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9999))))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "is missing"),
    "zero bytes": (lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)"),
    "html": (lambda path: path.write_bytes(b"<!DOCTYPE html><p>404"), "not an image: it begins with '<!DOCTYPE html"),
    "cut short": (truncated, "cannot be decoded"),
    "symlink loop": (loop, "symbolic links"),
    "folder": (folder_instead, "is not a file"),
    "bomb": (bomb, "megapixels|decompression bomb"),
}


@pytest.mark.parametrize("part", ["train", "trainannot"])
@pytest.mark.parametrize("bad", sorted(BAD_FILES))
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_unreadable_file_is_named_or_skipped(tmp_path: Path, part: str, bad: str) -> None:
    config = make_camvid(tmp_path)
    spoil, message = BAD_FILES[bad]
    spoil(tmp_path / part / "train1.png")
    with pytest.raises(FnaError, match=message) as error:
        open_data(config, "train")
    assert f"{part}/train1.png" in str(error.value)
    assert "1 of 3 records" in str(error.value)
    assert "--data.on_error skip" in str(error.value)
    data = open_data(config.model_copy(update={"on_error": "skip"}), "train")
    assert [data.name(i) for i in range(len(data))] == ["train0.png", "train2.png"]
    assert len(data.skipped) == 1
    assert data.skipped[0].startswith("train1.png: ")


BAD_MASKS: dict[str, tuple[np.ndarray[Any, Any], str]] = {
    "another size": (labels(0, (0,), (H, W - 8)), "the mask is 40x40 pixels, its image 48x40"),
    "unknown labels": (labels(0, (0, 77)), r"unknown labels: 77 \(\d+ pixels\); known: 0\.\.11"),
    "colours": (picture(), "mode RGB; expected one channel"),
    "16-bit labels": (np.full((H, W), 300, np.uint16), r"300 \(1920 pixels\)"),
}


@pytest.mark.parametrize("bad", sorted(BAD_MASKS))
def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path, bad: str) -> None:
    config = make_camvid(tmp_path)
    pixels, message = BAD_MASKS[bad]
    save(tmp_path / "trainannot" / "train1.png", pixels)
    with pytest.raises(FnaError, match=message):
        open_data(config, "train")


def test_all_problems_come_in_one_error(tmp_path: Path) -> None:
    config = make_camvid(tmp_path, n=14)
    for i in range(12):
        (tmp_path / "train" / f"train{i}.png").unlink()
    with pytest.raises(FnaError, match="12 of 14 records are bad") as error:
        open_data(config, "train")
    assert str(error.value).count("is missing") == 10
    assert "... and 2 more" in str(error.value)


def test_nothing_usable_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    config = make_camvid(tmp_path).model_copy(update={"on_error": "skip"})
    for i in range(3):
        (tmp_path / "train" / f"train{i}.png").unlink()
    with pytest.raises(FnaError, match="no usable image of 3"):
        open_data(config, "train")


def test_a_record_listed_twice_is_named(tmp_path: Path) -> None:
    config = make_voc(tmp_path)
    write(tmp_path / "ImageSets" / "Segmentation" / "train.txt", "train_0\ntrain_1\ntrain_0\n")
    with pytest.raises(FnaError, match=r"train_0\.jpg: listed twice"):
        open_data(config, "train")
    assert len(open_data(config.model_copy(update={"on_error": "skip"}), "train")) == 2


def test_an_image_smaller_than_the_output_stride_is_refused() -> None:
    with pytest.raises(FnaError, match="48x16 pixels; expected at least 32x32"):
        memory(1, (16, 48))


def test_a_file_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    config = make_cityscapes(tmp_path)
    folder = os.fsencode(tmp_path / "leftImg8bit" / "train" / "ulm")
    os.rename(folder + b"/ulm_train_1_leftImg8bit.png", folder + b"/ulm_\xff_leftImg8bit.png")
    with pytest.raises(FnaError, match="not UTF-8; rename it") as error:
        open_data(config, "train")
    str(error.value).encode()


def test_train_and_val_in_common_are_found(tmp_path: Path) -> None:
    config = make_voc(tmp_path)
    write(tmp_path / "ImageSets" / "Segmentation" / "val.txt", "train_2\n")
    assert overlap(open_data(config, "train"), open_data(config, "val")) == ["train_2.jpg"]


def test_the_cache_changes_speed_only(tmp_path: Path) -> None:
    config = make_camvid(tmp_path)
    cached, decoded = (open_data(config.model_copy(update={"cache_gb": gb}), "train") for gb in (1.0, 0.0))
    for i in range(3):
        for a, b in zip(cached.load(i), decoded.load(i), strict=True):
            assert torch.equal(a, b)
    for file in (tmp_path / "train").iterdir():
        file.unlink()
    cached.load(0)
    with pytest.raises(FnaError, match="missing"):
        decoded.load(0)


# --- decoding rules ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGBA", "CMYK", "P", "RGB"])
@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_images_of_these_modes_become_rgb(tmp_path: Path, mode: str, ending: str) -> None:
    image = Image.fromarray(picture()).convert(mode)
    if (mode, ending) == ("CMYK", "png"):
        pytest.skip("PNG has no CMYK")
    image.save(tmp_path / f"x.{ending}")
    opaque = image.convert("RGBA").convert("RGB") if mode != "CMYK" else image.convert("RGB")
    np.testing.assert_array_equal(read_image(tmp_path / f"x.{ending}"), np.asarray(opaque))


def test_a_palette_with_transparency_becomes_rgb_without_a_word(tmp_path: Path) -> None:
    image = Image.fromarray(picture()).convert("P")
    image.save(tmp_path / "x.png", transparency=bytes(range(256)))
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("dtype", "mode"), [(np.uint16, "I;16"), (np.int32, "I"), (np.float32, "F")])
def test_deep_grey_images_are_refused(tmp_path: Path, dtype: type, mode: str) -> None:
    path = save(tmp_path / "x.tiff", np.ones((H, W), dtype))
    with pytest.raises(FnaError, match=f"mode {mode}; expected 8 bits"):
        read_image(path)


def raw_png(path: Path, bits: int, color_type: int, rows: list[bytes], width: int) -> Path:
    header = struct.pack(">IIBBBBB", width, len(rows), bits, color_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


def test_of_16_bit_rgb_the_high_byte_is_kept(tmp_path: Path) -> None:
    path = raw_png(tmp_path / "x.png", 16, 2, [bytes((10, 255, 20, 0, 30, 7))], 1)
    assert read_image(path).tolist() == [[[10, 20, 30]]]


@pytest.mark.parametrize(("bits", "row", "wanted"), [(1, 0b01010000, [0, 1, 0, 1]), (2, 0b00011011, [0, 1, 2, 3])])
def test_labels_in_shallow_grey_are_not_stretched(tmp_path: Path, bits: int, row: int, wanted: list[int]) -> None:
    path = raw_png(tmp_path / "x.png", bits, 0, [bytes([row])], 4)
    assert read_mask(path).tolist() == [wanted]


def test_labels_in_4_bit_grey_are_not_stretched(tmp_path: Path) -> None:
    assert read_mask(raw_png(tmp_path / "x.png", 4, 0, [bytes((0x0B, 0x1F))], 4)).tolist() == [[0, 11, 1, 15]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_keep_their_labels(tmp_path: Path, dtype: type) -> None:
    wanted = labels().astype(dtype)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "x.png", wanted)), wanted)


def test_a_jpeg_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FnaError, match="JPEG, which blurs labels"):
        read_mask(save(tmp_path / "x.jpg", labels()))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    path = save(tmp_path / "x.png", picture(), exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(picture(), -1))


@FUZZ
@given(junk=st.binary(max_size=400))
def test_random_bytes_end_in_our_error(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(junk)
    for read in (read_image, read_mask):
        with pytest.raises(FnaError, match=r"x\.png"):
            read(path)


@FUZZ
@given(
    ending=st.sampled_from(["png", "jpg", "tiff", "gif", "bmp", "webp"]),
    where=st.floats(0, 1),
    byte=st.integers(0, 255),
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_changed_byte_is_survived_or_ends_in_our_error(tmp_path: Path, ending: str, where: float, byte: int) -> None:
    path = save(tmp_path / f"x.{ending}", labels())
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] = byte
    path.write_bytes(content)
    for read in (read_image, read_mask):
        try:
            pixels = read(path)
        except FnaError:
            continue
        assert pixels.ndim in (2, 3)


@FUZZ
@given(
    name=st.sampled_from(["camvid", "folder", "voc"]),
    junk=st.binary(max_size=80) | st.text(max_size=80).map(str.encode),
)
def test_random_split_files_end_in_our_error(tmp_path: Path, name: str, junk: bytes) -> None:
    root = tmp_path / name
    config = MAKERS[name](root)
    file = next(root.rglob("train.txt"))
    file.write_bytes(junk)
    with pytest.raises(FnaError):
        open_data(config, "train")


# --- crops ------------------------------------------------------------------------------------------------------------


def view(data: SegmentationData, rng_seed: int = 0, **config: Any) -> TrainView:
    return TrainView(data, range(len(data)), DataConfig(crop=(32, 40), **config), rng_seed)


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)


def test_a_crop_is_a_function_of_seed_epoch_and_index() -> None:
    data = memory(3)
    before = torch.get_rng_state()
    crop = view(data)[3, 1]
    assert torch.equal(torch.get_rng_state(), before)
    assert (crop["image"].shape, crop["mask"].shape, crop["index"]) == ((3, 32, 40), (32, 40), 1)
    assert (crop["image"].dtype, crop["mask"].dtype) == (torch.uint8, torch.uint8)
    assert same(crop, view(data)[3, 1])
    assert same(crop, TrainView(data, [2, 1], DataConfig(crop=(32, 40)), 0)[3, 1])  # the record counts, not its place
    for other in (view(data)[4, 1], view(data)[3, 2], view(data, rng_seed=1)[3, 1]):
        assert not torch.equal(crop["image"], other["image"])


@pytest.mark.parametrize("scale", [(0.3, 0.5), (1.0, 1.0), (0.8, 3.0)])
def test_image_and_mask_stay_aligned(scale: tuple[float, float]) -> None:
    """The image shows the class of the mask as dark or bright, never nearer to the other."""
    mask = np.kron(np.indices((4, 5)).sum(0) % 2, np.ones((16, 16))).astype(np.uint8)
    image = np.stack([mask * 200] * 3, 2)
    listing = Listing(("x",), Legend(("a", "b"), ((0, 0, 0),) * 2, {0: 0, 1: 1}), lambda _: (image, mask))
    crops = view(SegmentationData(listing, "a test"), scale=scale, color_jitter=0.0)
    for epoch in range(40):
        crop = crops[epoch, 0]
        labelled = crop["mask"] != IGNORE
        off = (crop["image"][0].int() - crop["mask"].int() * 200).abs()
        assert int(off[labelled].max()) <= 105
        fill = torch.tensor(FILL_RGB, dtype=torch.uint8)[:, None]
        assert torch.equal(crop["image"][:, ~labelled], fill.expand(-1, int((~labelled).sum())))


def test_small_images_are_padded_and_large_ones_are_not() -> None:
    small = [view(memory(1, values=(0, 1)), scale=(0.5, 0.5))[e, 0]["mask"] for e in range(20)]
    assert all(int((mask == IGNORE).sum()) == 32 * 40 - 20 * 24 for mask in small)
    assert len({int((mask[0] == IGNORE).all()) for mask in small}) == 2  # padded above or below
    large = [view(memory(1, values=(0, 1)), scale=(1.0, 2.0))[e, 0]["mask"] for e in range(20)]
    assert not any((mask == IGNORE).any() for mask in large)


def test_cropping_before_resizing_is_resizing_before_cropping() -> None:
    from torchvision.transforms.v2.functional import resize

    row, column = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    image = torch.stack([row * 2, column, (row + column) // 2]).to(torch.uint8)
    for i in range(30):
        window = draw_window((96, 128), (32, 40), (0.5, 2.0), generator(0, "test", i))
        scale = [c / s for c, s in zip(window.crop, window.size, strict=True)]
        whole = resize(image, [round(n * f) for n, f in zip((96, 128), scale, strict=True)], antialias=True)
        y, x = (round(s * f) for s, f in zip(window.start, scale, strict=True))
        there = whole[:, y : y + 32, x : x + 40].int()
        here = window.cut_image(image)[:, : there.shape[1], : there.shape[2]].int()
        assert int((here - there)[:, 3:-3, 3:-3].abs().max()) <= 4


def test_crops_flip_half_of_the_time_and_only_if_wanted() -> None:
    data = memory(1)
    plain, flipped = (view(data, flip=flip, color_jitter=0.0, scale=(1.0, 1.0)) for flip in (False, True))
    turned = [not torch.equal(plain[e, 0]["mask"], flipped[e, 0]["mask"]) for e in range(60)]
    assert 15 < sum(turned) < 45
    for e in range(60):
        wanted = plain[e, 0]["image"].flip(-1) if turned[e] else plain[e, 0]["image"]
        assert torch.equal(flipped[e, 0]["image"], wanted)


def test_crops_without_labels_are_redrawn_then_accepted() -> None:
    assert (view(memory(1, values=(9,)))[0, 0]["mask"] == IGNORE).all()
    mask = np.full((200, 200), 9, np.uint8)
    mask[:100, :100] = 1
    legend = Legend(("a", "b"), ((0, 0, 0),) * 2, {1: 1, 9: IGNORE})
    listing = Listing(("x",), legend, lambda _: (picture(0, (200, 200)), mask))
    crops = view(SegmentationData(listing, "a test"), scale=(1.0, 1.0))
    empty = sum(bool((crops[e, 0]["mask"] == IGNORE).all()) for e in range(100))
    assert empty < 20  # one crop in two, were they drawn once


@pytest.mark.parametrize("scale", [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_an_impossible_scale_is_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(FnaError, match=r"data\.scale"):
        TrainView(memory(1), [0], DataConfig.model_construct(scale=scale), 0)


# --- samplers and loaders ---------------------------------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 3)).filter(lambda s: s[0] >= s[1] * s[2])


@LAWS
@given(size=sizes, rng_seed=st.integers(0, 99))
def test_an_epoch_shows_every_record_at_most_once(size: tuple[int, int, int], rng_seed: int) -> None:
    n, batch_size, world = size
    steps = n // (batch_size * world)
    seen = []
    for rank in range(world):
        sampler = StepSampler(n, batch_size, rng_seed, "weights", 0, 3 * steps, rank, world)
        assert sampler.steps_per_epoch == steps
        assert sampler.left_out == n - steps * batch_size * world
        assert len(sampler) == 3 * steps
        seen += [key for batch in sampler for key in batch]
    assert len(seen) == len(set(seen)) == 3 * steps * batch_size * world
    assert {epoch for epoch, _ in seen} == {0, 1, 2}
    assert {position for _, position in seen} <= set(range(n))


@LAWS
@given(size=sizes, start=st.integers(0, 50), length=st.integers(0, 20))
def test_resuming_and_splitting_over_ranks_change_no_batch(size: tuple[int, int, int], start: int, length: int) -> None:
    n, batch_size, world = size
    whole = list(StepSampler(n, batch_size * world, 5, "weights", 0, start + length))
    assert list(StepSampler(n, batch_size * world, 5, "weights", start, start + length)) == whole[start:]
    ranks = [StepSampler(n, batch_size, 5, "weights", start, start + length, rank, world) for rank in range(world)]
    assert [[*chain(*parts)] for parts in zip(*ranks, strict=True)] == whole[start:]


@LAWS
@given(size=sizes, rng_seed=st.integers(0, 99), data=st.data())
def test_a_batch_mixes_groups_only_where_it_must(
    size: tuple[int, int, int], rng_seed: int, data: st.DataObject
) -> None:
    n, batch_size, world = size
    groups = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    steps = n // (batch_size * world)
    ranks = [StepSampler(n, batch_size, rng_seed, "weights", 0, steps, rank, world, groups) for rank in range(world)]
    batches = [[position for _, position in chain(*parts)] for parts in zip(*ranks, strict=True)]
    assert len(batches) == steps
    assert len({p for batch in batches for p in batch}) == steps * batch_size * world
    mixed = sum(len({groups[p] for p in batch}) > 1 for batch in batches)
    assert mixed <= len(set(groups)) - 1 if groups else mixed == 0


def test_orders_differ_by_epoch_seed_and_purpose() -> None:
    def order(rng_seed: int, purpose: str, epoch: int) -> list[int]:
        return [p for batch in StepSampler(20, 2, rng_seed, purpose, 10 * epoch, 10 * epoch + 10) for _, p in batch]

    orders = [order(0, "weights", 0), order(0, "weights", 1), order(1, "weights", 0), order(0, "alphas", 0)]
    assert len({tuple(o) for o in orders}) == 4
    assert all(sorted(o) == list(range(20)) for o in orders)


def test_fewer_images_than_a_batch_name_the_minimum() -> None:
    with pytest.raises(
        FnaError, match=r"7 images for 'alphas', but a step needs at least 8 \(batch size 4 x 2 processes"
    ):
        StepSampler(7, 4, 0, "alphas", 0, 10, rank=0, world=2)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_and_resuming_change_no_batch() -> None:
    crops = view(memory(7))
    before = torch.get_rng_state()
    alone = list(Loader(crops, 0, StepSampler(7, 2, 0, "weights", 0, 8), collate))
    helped = list(Loader(crops, 2, StepSampler(7, 2, 0, "weights", 3, 8), collate))
    assert torch.equal(torch.get_rng_state(), before)
    assert (len(alone), len(helped)) == (8, 5)
    assert all(same(a, b) for a, b in zip(alone[3:], helped, strict=True))
    batch = helped[0]
    assert batch["image"].shape == (2, 3, 32, 40)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["mask"].shape == (2, 32, 40)
    assert (batch["image"].dtype, batch["mask"].dtype, batch["index"].dtype) == (torch.uint8, torch.uint8, torch.int64)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_record_that_breaks_later_is_our_error(tmp_path: Path, workers: int) -> None:
    data = open_data(make_camvid(tmp_path).model_copy(update={"cache_gb": 0.0}), "train")
    (tmp_path / "train" / "train1.png").unlink()
    with pytest.raises(FnaError, match=r"^\S*train1\.png is missing") as error:
        list(Loader(view(data), workers, StepSampler(3, 3, 0, "weights", 0, 1), collate))
    assert "Traceback" not in str(error.value)


def die(position: int) -> Any:
    if torch.utils.data.get_worker_info() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return picture(position), labels(position)


@pytest.mark.slow  # the loader looks every 5 s whether its workers live
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_killed_worker_is_our_error() -> None:
    listing = Listing(("x",), Legend(("a", "b", "c"), ((0, 0, 0),) * 3, {0: 0, 1: 1, 2: 2}), die)
    data = SegmentationData(listing, "a test", cache_gb=0)
    with pytest.raises(FnaError, match=r"worker process died .*--engine\.workers 0"):
        list(Loader(view(data), 1, StepSampler(1, 1, 0, "weights", 0, 4), collate))


@LAWS
@given(n=st.integers(2, 200), share=st.floats(0.01, 0.99), rng_seed=st.integers(0, 9))
def test_a_split_for_the_alphas_parts_the_records(n: int, share: float, rng_seed: int) -> None:
    if not 0 < round(n * share) < n:
        with pytest.raises(FnaError, match="both need at least 1"):
            split_indices(n, share, rng_seed)
        return
    weights, alphas = split_indices(n, share, rng_seed)
    assert sorted(weights + alphas) == list(range(n))
    assert abs(len(alphas) - n * share) <= 0.5
    assert (weights, alphas) == split_indices(n, share, rng_seed)
