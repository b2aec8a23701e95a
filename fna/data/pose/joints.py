"""What the names of joints tell: which a mirror swaps, their colours, the halves of a body, the head."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence

from fna.data.listing import Color
from fna.errors import FnaError, nearest

OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}
PARTS = re.compile(r"[^\W_]+")  # of left_ear
WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")  # of leftEar
LOWER = ("hip", "pelvis", "knee", "ankle", "foot", "feet", "toe", "heel", "hock", "paw", "tail")
HUES = {"left": (0.25, 0.45), "right": (0.0, 0.11), "": (0.55, 0.75)}  # greens, reds, blues
TOPS, NECKS = ("head_top", "top_head", "head"), ("upper_neck", "neck")

Pairs = Sequence[tuple[str, str]] | None


def mirror(names: Sequence[str], pairs: Pairs = None) -> tuple[int, ...]:
    """Return, for each joint, the joint that takes its place in a mirror image: itself where there is none.

    Sides are read from names such as left_ear, ear_left, LeftEar, l_ear, L-Ear, earL and, where both are there, lear
    and rear.

    Args:
        names: the joints.
        pairs: the joints to swap (``task.joint_pairs``); None: read the sides from the names.

    Raises:
        FnaError: a pair names no joint, or a joint twice; or a left or right joint has no partner.

    >>> mirror(["left_ear", "nose", "right_ear"])
    (2, 1, 0)
    """
    swap = list(range(len(names)))
    for a, b in _partners(names) if pairs is None else pairs:
        for name in (a, b):
            if name not in names:
                raise FnaError(f"task.joint_pairs has '{name}'{nearest(name, names)}; joints: {', '.join(names)}")
        i, j = names.index(a), names.index(b)
        if i == j or swap[i] != i or swap[j] != j:
            raise FnaError(f"task.joint_pairs: ({a}, {b}) has a joint that occurs twice; a joint has one partner")
        swap[i], swap[j] = j, i
    return tuple(swap)


def _partners(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of joints whose names differ in the side only."""
    known = {name.lower(): name for name in names}
    partners: dict[str, str | None] = {}
    for name in names:
        wanted = [_swapped(name, PARTS), _swapped(name, WORDS), *_swapped_beginnings(name)]
        partners[name] = next((known[other.lower()] for other in wanted if other.lower() in known), None)
    for name, partner in partners.items():
        missing = _swapped(name, PARTS)
        if partner is None and missing:
            free = [other for other in names if partners[other] is None and side(other) != side(name)]
            raise FnaError(
                f"the joint '{name}' has no partner '{missing}'{nearest(missing, free)} that a mirror could swap it "
                "with; name the pairs, as in --task.joint_pairs '[[left_ear, right_ear]]' ([] if there are none), "
                "or type --data.flip false --evaluate.flip_test false"
            )
    return [(a, b) for a, b in partners.items() if b and partners[b] == a and names.index(a) < names.index(b)]


def _swapped(name: str, words: re.Pattern[str]) -> str:
    """Return the name with its first word that is a side replaced by the other side, or ''."""
    for word in words.finditer(name):
        if word[0].lower() in OTHER:
            return name[: word.start()] + OTHER[word[0].lower()] + name[word.end() :]
    return ""


def _swapped_beginnings(name: str) -> list[str]:
    """Return the names that begin with the other side where this one begins with a side (lear, rear)."""
    return [OTHER[own] + name[len(own) :] for own in OTHER if name.lower().startswith(own) and len(name) > len(own) + 1]


def side(name: str) -> str:
    """Return ``"left"``, ``"right"`` or, of a joint in the middle, ``""``.

    >>> side("L_Ankle"), side("neck"), side("rightKnee")
    ('left', '', 'right')
    """
    for word in WORDS.findall(name):
        if word.lower() in OTHER:
            return "left" if word.lower() in ("left", "l") else "right"
    return next((word for word in ("left", "right") if name.lower().startswith(word)), "")


def joint_colors(names: Sequence[str]) -> tuple[Color, ...]:
    """Return a colour per joint: greens on the left, reds on the right, blues in the middle."""
    sides = [side(name) for name in names]
    colors = []
    for number, own in enumerate(sides):
        first, last = HUES[own]
        share = sides[:number].count(own) / max(1, sides.count(own) - 1)
        rgb = colorsys.hsv_to_rgb(first + (last - first) * share, 0.85, 0.95)
        colors.append((round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2])))
    return tuple(colors)


def lower_body(names: Sequence[str]) -> tuple[bool, ...]:
    """Tell which joints are of the lower body.

    >>> lower_body(["left_hip", "neck"])
    (True, False)
    """
    return tuple(any(word.lower().rstrip("s") in LOWER for word in WORDS.findall(name)) for name in names)


def head_segment(names: Sequence[str]) -> tuple[int, int] | None:
    """Return the neck and the top of the head, or None where the joints lack one of them."""
    known = [re.sub(r"\W", "_", name.lower()) for name in names]
    top, neck = (next((known.index(n) for n in wanted if n in known), None) for wanted in (TOPS, NECKS))
    return None if top is None or neck is None else (neck, top)
