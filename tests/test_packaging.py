"""The package as others get it: built, installed elsewhere, on other systems and with other versions."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import fna
from fna.cli import main

ROOT = Path(__file__).parents[1]
FILES = sorted(Path(fna.__file__).parent.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PRIVATE = {  # of torchvision, with the parameters that we give
    "torchvision.models.detection._utils.BoxCoder": ("weights",),
    "torchvision.models.detection._utils.encode_boxes": ("reference_boxes", "proposals", "weights"),
    "torchvision.models.detection.anchor_utils.AnchorGenerator": ("sizes", "aspect_ratios"),
    "torchvision.models.detection.anchor_utils.DefaultBoxGenerator": ("aspect_ratios",),
    "torchvision.models.detection.image_list.ImageList": ("tensors", "image_sizes"),
    "torchvision.models.detection.retinanet.RetinaNetClassificationHead": ("in_channels", "num_anchors", "num_classes"),
    "torchvision.models.detection.retinanet.RetinaNetRegressionHead": ("in_channels", "num_anchors"),
    "torchvision.models.detection.ssd.SSDScoringHead": ("module_list", "num_columns"),
}


def test_private_parts_of_torchvision_are_listed_and_there() -> None:
    used = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("torchvision.models"):
                used |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert used == set(PRIVATE)
    for name, parameters in PRIVATE.items():
        module, _, part = name.rpartition(".")
        taken = inspect.signature(getattr(import_module(module), part)).parameters
        assert set(parameters) <= set(taken), name


def test_torchvision_has_an_upper_bound_that_takes_what_is_installed() -> None:
    import torchvision

    (bound,) = (r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "torchvision")
    assert any(spec.operator == "<" for spec in bound.specifier)
    assert Version(torchvision.__version__).public in bound.specifier


def test_timm_is_not_imported_with_the_stages() -> None:
    code = """
import sys
import fna.runs.pipeline, fna.cli
loaded = {"timm", "torchmetrics", "huggingface_hub", "tensorboard"} & sys.modules.keys()
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_everything_imports_where_there_is_no_posix() -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if path.name != "__main__.py"]
    code = f"""
import importlib, sys
import faster_coco_eval, filelock, jinja2, matplotlib.figure, rich.console, timm, torch.utils.data, torchvision, typer
for name in ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None
for module in {modules}:
    importlib.import_module(module.removesuffix(".__init__"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_seeds_fit_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "seeds"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert any("efficientnet_lite0" in line and "Apache-2.0" in line for line in lines)


@pytest.mark.slow
def test_wheel_and_sdist_are_built_and_the_wheel_works_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")

    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it would lead back here

    def run(*words: object) -> str:
        done = subprocess.run([*map(str, words)], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", ROOT)
    (wheel,), (sdist,) = (list((tmp_path / "dist").glob(kind)) for kind in ("*.whl", "*.tar.gz"))
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("fna/")}
    tracked = {path.relative_to(ROOT).as_posix() for path in FILES}
    assert tracked <= inside
    assert not [name for name in inside if name.endswith(".pyc")]
    assert sdist.stat().st_size < 20e6
    venv.create(tmp_path / "clean", with_pip=False)
    folder = tmp_path / "clean" / ("Scripts" if sys.platform == "win32" else "bin")
    python = folder / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(site, "present.pth").write_text(sysconfig.get_path("purelib") + "\n")  # the libraries that are here already
    assert run(folder / "fna", "--version").strip() == f"fna {PROJECT['version']}"
    assert "MAdds" in run(folder / "fna", "count", "efficientnet_lite0")
    assert str(tmp_path) in run(python, "-c", "import fna; print(fna.__file__)")
