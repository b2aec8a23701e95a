"""Mistakes of later stages are told before anything is trained, and the same folder takes the settings mended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from test_pipeline import TINY, tiny

from fna.cli import main
from fna.config import make_config
from fna.errors import FnaError
from fna.runs import pipeline
from fna.runs.run import Run
from fna.searching.parting import part_records

LATE = {
    "adapt.class_weights={cir: 3}": r"adapt\.class_weights has 'cir' \(did you mean",
    "adapt.freeze=99": r"adapt\.freeze is 99, but this backbone has 7 stages",
    "adapt.weights=nofile.pth": "cannot read the weights nofile.pth",
    "adapt.arch=seeed": r"adapt\.arch is 'seeed' \(did you mean 'seed'",
    "adapt.batch_size=9": "8 images for 'adapt', but a step needs at least 9",
    "derive.budget=0.0001x": r"derive\.budget 0\.0001x means .* choose a budget in that range",
    "search.batch_size=5": r"search\.alpha_split 0\.5 of 8 images leaves 4 for the weights.*--search\.batch_size 4",
}


@pytest.mark.parametrize("mistake", LATE)
def test_a_mistake_is_told_before_the_search(mistake: str, tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", tiny(mistake)) as run, pytest.raises(FnaError, match=LATE[mistake]):
        pipeline.stage(run, "expand")
    assert not list((tmp_path / "run").glob("super.*"))


def test_the_folder_takes_what_is_mended(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", tiny("search.batch_size=5")) as run, pytest.raises(FnaError):
        pipeline.stage(run, "expand")
    with Run.open(tmp_path / "run", tiny()) as run:
        pipeline.stage(run, "expand")
        assert run.finished("expand")


@pytest.mark.parametrize(
    ("mistake", "said"),
    [("seed.name=mobilenet_v3", "unknown seed 'mobilenet_v3'"), ("search.budget=30ms", "fna latency RECIPE")],
)
def test_names_are_looked_at_before_the_data(
    mistake: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [word for text in (*TINY, mistake) for word in (f"--{text.split('=', 1)[0]}", text.split("=", 1)[1])]
    (tmp_path / "recipe.yaml").write_text("{}")
    assert main(["run", str(tmp_path / "recipe.yaml"), "--run", str(tmp_path / "run"), *settings]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "expand" not in told
    assert not (tmp_path / "run" / "data").exists()


class Named:
    """Records of images with names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]


def test_few_images_can_be_held_out_and_few_alphas_cannot_learn() -> None:
    names = [f"{record}.jpg" for record in range(12)]
    config = make_config({"search": {"batch_size": 4}}).search
    weights, held = part_records(Named(names[:12]), config, 0, 1)
    assert (len(weights), len(held)) == (10, 2)
    alphas = config.model_copy(update={"chooser": "alphas", "alpha_split": 0.25})
    with pytest.raises(
        FnaError, match=r"alpha_split 0\.25 of 12 images leaves 3 for the alphas.*--search\.batch_size 3"
    ):
        part_records(Named(names[:12]), alphas, 0, 1)
    with pytest.raises(FnaError, match=r"leaves 10 for the weights, but a step needs 16 .*4 x 4 proc.*batch_size 2,"):
        part_records(Named(names[:12]), config, 0, 4)
    with pytest.raises(FnaError, match=r"search\.held_out 0\.2 of 2 images leaves 2 for the weights and 0"):
        part_records(Named(names[:2]), config, 0, 1)


@pytest.mark.parametrize("pattern", ["a/{image}.jpg", "{image}_jpg.rf.{record}.jpg"], ids=["persons", "copies"])
def test_what_shows_the_same_image_is_on_one_side(pattern: str) -> None:
    data = Named([pattern.format(image=record // 3, record=record) for record in range(60)])
    weights, held = part_records(data, make_config({"search": {"batch_size": 4}}).search, 0, 1)
    assert sorted(weights + held) == list(range(60))
    assert not {record // 3 for record in weights} & {record // 3 for record in held}
    assert len(held) == 12


def test_persons_are_parted_where_all_are_in_one_image() -> None:
    weights, held = part_records(Named(["crowd.jpg"] * 60), make_config({"search": {"batch_size": 4}}).search, 0, 1)
    assert (len(weights), len(held)) == (48, 12)
