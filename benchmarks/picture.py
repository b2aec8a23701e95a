"""Draw docs/found.svg, the README's picture: a seed and the network that a committed result found from it.

python benchmarks/picture.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fna.arch import Arch
from fna.reporting.figures import PAPER, VARIABLES, to_svg
from fna.reporting.layouts import draw_archs
from fna.seeds import find_variant

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "demo.json"
PICTURE = ROOT / "docs" / "found.svg"
SEED = "efficientnet_lite0"  # of the demo


def draw(result: dict[str, Any]) -> str:
    """Return the picture as an SVG file's text; it has a background of its own, so it is legible on any page."""
    found = next(row for row in result["rows"] if row["row"].endswith("FNA++ network"))
    seed = next(row for row in result["rows"] if row["row"].endswith("fine-tuned seed"))
    archs = {
        f"seed: EfficientNet-Lite0, {seed['madds'] / 1e9:.3f} G MAdds": find_variant(SEED).arch,
        f"found on street scenes, input {found['scale']:g} x: {found['madds'] / 1e9:.3f} G MAdds": Arch.from_json(
            result["found"]["0"]["arch"]
        ),
    }
    svg = to_svg(draw_archs(archs)).replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    for color, variable in VARIABLES.items():
        svg = svg.replace(variable, color)
    card = f'<rect width="100%" height="100%" rx="6" style="fill: {PAPER}"/>'
    return re.sub(r"(<svg[^>]*>)", lambda match: match[1] + card, svg, count=1)


if __name__ == "__main__":
    PICTURE.write_text(draw(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")
