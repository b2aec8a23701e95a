"""What the classes, or joints, of a task are called and how they are drawn; known without a data set. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fna.errors import FnaError


@dataclass(frozen=True)
class Labels:
    """What predictions mean.

    Args:
        classes: names of the classes, or of the joints.
        colors: RGB by class.
        links: pairs of joints that a skeleton joins.
        category_ids: the data set's own numbers of the classes, as COCO's results have them; (): it has none.
    """

    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    links: tuple[tuple[int, int], ...] = ()
    category_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, data: Any) -> Labels:
        """Return those of a data set."""
        ids = tuple(getattr(data, "category_ids", ()))
        return cls(tuple(data.classes), tuple(data.colors), tuple(data.links), ids)

    @classmethod
    def from_json(cls, record: Any) -> Labels:
        """Return what `to_json` wrote.

        Raises:
            FnaError: it is no such record.
        """
        try:
            colors = {str(name): (int(r), int(g), int(b)) for name, (r, g, b) in record["colors"].items()}
            links = tuple((int(a), int(b)) for a, b in record["links"])
            return cls(tuple(colors), tuple(colors.values()), links, tuple(map(int, record["category_ids"])))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FnaError(f"the record of the network's classes is damaged: {type(error).__name__} {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Return them ready for JSON."""
        colors = {name: list(color) for name, color in zip(self.classes, self.colors, strict=True)}
        links = [list(link) for link in self.links]
        return {"colors": colors, "links": links, "category_ids": list(self.category_ids)}
