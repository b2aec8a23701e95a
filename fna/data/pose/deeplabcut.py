"""DeepLabCut projects: the labelled frames of videos, a CSV per video, of one animal or several.

Three rows of head, ``scorer``, ``bodyparts``, ``coords``, or four with ``individuals`` after the first; then a row per
frame, its path in one column or in three (``labeled-data``, video, file). An empty cell is a joint without label. There
are no boxes: an animal's is the one around its joints. Body parts of the individual ``single`` belong to the scene and
not to an animal, and are left out.

Source: deeplabcut.github.io/DeepLabCut, user guides of single- and multi-animal projects.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fna.config import DataConfig
from fna.config.strict_yaml import parse_yaml
from fna.data.listing import split_lines
from fna.data.places import WHOLE, MissingSplitError
from fna.data.pose.listing import Defect, PoseListing, PoseReader, Record
from fna.data.stamps import Sources, Watched
from fna.errors import FnaError, nearest
from fna.files import read_text

PLACES = (  # the first that has files
    *("labeled-data/*/CollectedData*.csv", "*/CollectedData*.csv", "CollectedData*.csv"),
    *("labeled-data/*/*.csv", "*/*.csv", "*.csv"),
)
SHARES = {"train": "0-80%", "val": "80-100%"}  # of the frames, where there is no such file or video
SCENE = "single"
AXES = ("x", "y", "likelihood")
HEAD = ("scorer", "individuals", "bodyparts", "coords")
LAYOUT = """\
  ROOT/labeled-data/VIDEO/CollectedData_SCORER.csv   beside the frames it names; also ROOT/VIDEO/*.csv or ROOT/*.csv
  ROOT/SPLIT.txt   a frame (labeled-data/VIDEO/img001.png) or a video's name per line; without it, SPLIT is videos
                   (--data.val video3,video7) or a share of the frames in an order drawn once and for all (--data.train
                   0-80% --data.val 80-100%, which 'train' and 'val' mean where nothing has such a name)"""


@dataclass(frozen=True)
class Row:
    """A frame: where its image is, which line of which CSV says so, and x, y as written, by individual and joint."""

    path: Path
    where: str
    animals: dict[str, dict[str, list[str]]]

    @property
    def video(self) -> str:
        """Return the name of the video the frame is from: its folder's."""
        return self.path.parent.name

    @property
    def name(self) -> str:
        """Return what the frame is called, on any machine."""
        return f"{self.video}/{self.path.name}"


def read(root: Path, split: str, config: DataConfig) -> PoseListing:
    """List the animals in the frames of a split."""
    place, files = next(((place, files) for place in PLACES if (files := sorted(root.glob(place)))), ("", []))
    if not files:
        raise FnaError(f"there is no CSV below {root}; expected\n{LAYOUT}")
    joints: tuple[str, ...] = ()
    rows: list[Row] = []
    for file in files:
        own, frames = _read_csv(file)
        if joints and set(own) != set(joints):
            raise FnaError(f"{file} has the joints {', '.join(own)}; other files have {', '.join(joints)}")
        joints = joints or own
        rows += frames
    links, notes = _links(root, joints)
    lists = [root / "config.yaml", root / f"{split}.txt"]
    sources = Sources([*files, *lists], [Watched(root, re.escape(place).replace(r"\*", "[^/]*"))])
    return replace(_list(_choose(rows, root, split), joints, links, notes), sources=sources)


def _list(
    rows: Sequence[Row], joints: tuple[str, ...], links: tuple[tuple[int, int], ...], notes: list[str]
) -> PoseListing:
    """Turn rows into records; an animal without any label in a frame is not in it."""
    records: list[Record] = []
    problems: list[Defect] = []
    labelled: list[Row] = []
    seen: set[Path] = set()
    for row in rows:
        if row.path in seen:
            problems.append(Defect("a frame is listed twice", f"{row.name}, {row.where}"))
            continue
        seen.add(row.path)
        people = [(name, [_point(places.get(joint)) for joint in joints]) for name, places in row.animals.items()]
        people = [(name, points) for name, points in people if any(point[2] for point in points)]
        for name, points in people:
            who = f"{name} ({row.where})" if name else row.where
            records.append(Record(len(labelled), who, points, image_id=row.name, id=len(records)))
        labelled += [row] if people else []
    unlabelled = len(seen) - len(labelled)
    notes += [f"frames without a labelled joint, left out: {unlabelled}"] if unlabelled else []
    paths, names = [row.path for row in labelled], [row.name for row in labelled]
    return PoseListing(joints, links, paths, names, records, (), problems, notes)


# --- reading a CSV ----------------------------------------------------------------------------------------------------


def _read_csv(file: Path) -> tuple[tuple[str, ...], list[Row]]:
    """Return the joints and the frames of a CSV."""
    try:
        text = io.StringIO(read_text(file))
        table = [(reader.line_num, row) for reader in [csv.reader(text)] for row in reader if any(row)]
    except (OSError, ValueError, csv.Error) as error:
        raise FnaError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}; expected CSV") from error
    head: dict[str, list[str]] = {}
    while len(head) < len(table) and table[len(head)][1][0] in HEAD and table[len(head)][1][0] not in head:
        head[table[len(head)][1][0]] = table[len(head)][1]
    missing = [name for name in HEAD if name not in head and name != "individuals"]
    if missing:
        raise FnaError(
            f"{file} does not begin with rows scorer, bodyparts, coords: {missing[0]} is missing; expected a "
            f"CollectedData CSV as DeepLabCut writes it\n{LAYOUT}"
        )
    columns = _columns(file, head)
    joints = tuple(dict.fromkeys(joint for _, joint, _ in columns.values()))
    # The path ends where the coordinates of any body part begin, those of `SCENE` too.
    of_path = next(number for number, axis in enumerate(head["coords"]) if axis in AXES)
    return joints, list(_rows(file, table[len(head) :], columns, of_path))


def _columns(file: Path, head: dict[str, list[str]]) -> dict[int, tuple[str, str, int]]:
    """Return, by the number of a column, its individual, joint and axis."""
    width = len(head["coords"])
    if any(len(row) != width for row in head.values()):
        raise FnaError(f"{file}: the rows of its head have different lengths")
    individuals = head.get("individuals", [""] * width)
    columns = {
        number: (individuals[number], joint, "xy".index(axis))
        for number, (joint, axis) in enumerate(zip(head["bodyparts"], head["coords"], strict=True))
        if axis in ("x", "y") and individuals[number] != SCENE
    }
    if not columns:
        raise FnaError(f"{file} has no columns x and y of a body part")
    if len(set(columns.values())) < len(columns):
        raise FnaError(f"{file} has two columns of the same individual, body part and coordinate")
    return columns


def _rows(
    file: Path, table: Sequence[tuple[int, list[str]]], columns: dict[int, tuple[str, str, int]], of_path: int
) -> Iterator[Row]:
    """Yield the frames; the first `of_path` cells of a line are its path."""
    for line, cells in table:
        parts = re.split(r"[\\/]", "/".join(cell for cell in cells[: min(of_path, 3)] if cell))
        if len(cells) <= max(columns) or not parts[-1]:
            raise FnaError(f"{file}, line {line} has {len(cells)} cells; expected a frame and {max(columns) + 1} cells")
        animals: dict[str, dict[str, list[str]]] = {}
        for number, (individual, joint, axis) in columns.items():
            animals.setdefault(individual, {}).setdefault(joint, ["", ""])[axis] = cells[number].strip()
        yield Row(_image(file, parts), f"{file.name} line {line}", animals)


def _image(file: Path, parts: Sequence[str]) -> Path:
    """Return where a frame is: beside the CSV, or in the folder named as its video."""
    beside = file.parent / parts[-1]
    below = file.parent.joinpath(*parts[-2:])
    return below if len(parts) > 1 and parts[-2] != file.parent.name and not beside.is_file() else beside


def _point(cells: list[str] | None) -> list[Any]:
    """Return x, y, visibility; text that is no number stays, for the checks to refuse."""
    cells = cells or ["", ""]
    if all(cell.lower() in ("", "nan") for cell in cells):
        return [0, 0, 0]
    return [*map(_number, cells), 2]


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


# --- splits and skeleton ----------------------------------------------------------------------------------------------


def _choose(rows: Sequence[Row], root: Path, split: str) -> list[Row]:
    """Return the frames of a split; see `LAYOUT`."""
    if split == WHOLE:
        return list(rows)
    videos = sorted({row.video for row in rows})
    named = [name.strip() for name in split.split(",")]
    if (root / f"{split}.txt").is_file():
        lines = split_lines(root / f"{split}.txt", LAYOUT)
        wanted = {"/".join(re.split(r"[\\/]", line)[-2:]): number for number, line in lines}
        known = {row.name for row in rows} | set(videos)
        for name, number in wanted.items():
            if name not in known:
                raise FnaError(
                    f"{split}.txt, line {number} is '{name}', no labelled frame or video{nearest(name, known)}"
                )
        return [row for row in rows if row.name in wanted or row.video in wanted]
    if all(name in videos for name in named):
        return [row for row in rows if row.video in named]
    share = re.fullmatch(r"(\d{1,3})-(\d{1,3})%", SHARES.get(split, split))
    if share is None or not int(share[1]) < int(share[2]) <= 100:
        raise MissingSplitError(
            f"there is no {split}.txt and no video '{split}'{nearest(split, videos)} below {root}; videos: "
            f"{', '.join(videos[:10])}; expected\n{LAYOUT}"
        )
    order = sorted(rows, key=lambda row: (hashlib.sha256(row.name.encode(errors="replace")).digest(), row.name))
    first, stop = (round(len(order) * int(percent) / 100) for percent in share.groups())
    chosen = {id(row) for row in order[first:stop]}
    return [row for row in rows if id(row) in chosen]


def _links(root: Path, joints: Sequence[str]) -> tuple[tuple[tuple[int, int], ...], list[str]]:
    """Return the skeleton of the project's config.yaml, and a note if there is none to read."""
    try:
        settings = parse_yaml(read_text(root / "config.yaml"), "config.yaml")
    except FileNotFoundError:
        return (), []
    except (OSError, ValueError, FnaError) as error:
        return (), [f"no skeleton drawn: cannot read the project's config.yaml: {error}"]
    skeleton = settings.get("skeleton") if isinstance(settings, dict) else None
    pairs = [pair for pair in skeleton if isinstance(pair, list)] if isinstance(skeleton, list) else []
    known = [pair for pair in pairs if len(pair) == 2 and all(name in joints for name in pair)]
    return tuple((joints.index(a), joints.index(b)) for a, b in known), []


def _mark(root: Path, config: DataConfig) -> str:
    """Return what makes it such a data set."""
    found = next((file for place in PLACES[:3] for file in sorted(root.glob(place))), None)
    return found.relative_to(root).as_posix() if found else ""


FORMATS = {"deeplabcut": PoseReader(read, LAYOUT, mark=_mark)}
