"""A synthetic street: `scene` draws one, labelled for every task; data format ``synthetic``."""

from fna.data.synthetic.objects import JOINTS
from fna.data.synthetic.scenes import CLASSES, FORMATS, THINGS, Scene, scene

__all__ = ["CLASSES", "FORMATS", "JOINTS", "THINGS", "Scene", "scene"]
