"""A synthetic street: `scene` draws one, labelled for every task; data format ``synthetic``."""

from fna.data.synthetic.objects import JOINTS as JOINTS
from fna.data.synthetic.scenes import CLASSES as CLASSES
from fna.data.synthetic.scenes import THINGS as THINGS
from fna.data.synthetic.scenes import Scene as Scene
from fna.data.synthetic.scenes import scene as scene
