"""Perceptual hashes: what counts as a copy of an image, and what is said of copies across splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from fna.config import make_config
from fna.data.hashes import NEAR, difference_hash, near_pairs
from fna.data.index import open_splits
from fna.data.synthetic import scene

BITS = st.lists(st.integers(0, 2**64 - 1), max_size=12)


def drawn(index: int) -> Image.Image:
    return Image.fromarray(scene(0, "train", index, (120, 160)).image)


def test_copies_are_near_and_others_are_not(tmp_path: Path) -> None:
    images = [drawn(i) for i in range(12)]
    hashes = [difference_hash(np.asarray(image)) for image in images]
    assert not [pair for pair in near_pairs(hashes, hashes) if pair[0] != pair[1]]
    for image, own in zip(images, hashes, strict=True):
        image.save(tmp_path / "x.jpg", quality=60)
        copies = (Image.open(tmp_path / "x.jpg"), image.resize((240, 180)), ImageEnhance.Brightness(image).enhance(0.9))
        for copy in copies:
            assert (own ^ difference_hash(np.asarray(copy))).bit_count() <= NEAR


@given(BITS, BITS, st.integers(0, 40))
@settings(max_examples=50, deadline=None)
def test_near_is_the_number_of_bits_that_differ(first: list[int], second: list[int], most: int) -> None:
    expected = [(i, j) for i, a in enumerate(first) for j, b in enumerate(second) if (a ^ b).bit_count() <= most]
    assert near_pairs(first, second, most) == expected


@pytest.mark.parametrize("kept", [True, False])
def test_near_copies_across_splits_are_said_also_from_the_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: bool
) -> None:
    for number in range(8):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        drawn(min(number, 6)).save(tmp_path / "images" / f"{number}.jpg", quality=95 - number)
        Image.fromarray(np.arange(120 * 160, dtype=np.uint16).reshape(120, 160).astype(np.uint8) % 2).save(
            tmp_path / "masks" / f"{number}.png"
        )
    (tmp_path / "train.txt").write_text("".join(f"{n}\n" for n in range(7)))
    (tmp_path / "val.txt").write_text("7\n")
    config = make_config({"data": {"root": str(tmp_path), "classes": ["even", "odd"], "crop": [64, 64]}}).data
    for _ in range(1 + kept):
        capsys.readouterr()
        open_splits("segmentation", config, ["train", "val"], tmp_path / "run")
    said = capsys.readouterr().err
    assert "split 'val': images that are nearly the same as one of 'train': 1 (7.jpg as 6.jpg)" in said
