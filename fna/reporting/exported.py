"""The section of the report about networks that were exported: what they are and how they were checked."""

from __future__ import annotations

from pathlib import Path

from fna.files import read_json
from fna.reporting.parts import DASH, Part, Table

HEAD = ("network", "file", "MB", "ms", "score", "largest error", "predictions equal")


def exports(folder: Path) -> Part:
    """Make the table of exports beside the run's networks."""
    part, rows = Part(), []
    for path in sorted(folder.glob("*/onnx/export.json")):
        done = read_json(path)
        name = path.parent.parent.name
        rows.append(
            (f"{name}, torch", DASH, DASH, f"{done['torch_latency_ms']:.3g}", _score(done, "torch_score"), "", "")
        )
        for precision, row in done["files"].items():
            exact = precision == "fp32"
            checked = (f"{done['max_abs_error']:.1e}", f"{done['predictions_equal']:.3%}") if exact else ("", "")
            cells = (f"{row['bytes'] / 1e6:.1f}", f"{row['latency_ms']:.3g}", _score(row, "score"))
            rows.append(
                (f"{name}, {precision}", (path.parent / row["file"]).relative_to(folder).as_posix(), *cells, *checked)
            )
        part.warnings += done.get("warnings", [])
    caption = (
        "Exports that were run by ONNX Runtime on real images and held against torch before they were kept; ms for one "
        "image on the CPU. Look at what 8 bits cost."
    )
    part.tables.append(Table(caption, HEAD, rows, words=2))
    return part


def _score(row: dict[str, float], key: str) -> str:
    return f"{100 * row[key]:.2f} %" if key in row else DASH
