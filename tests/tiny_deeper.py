"""Tiny runs of tasks that read features of stride 32, detection and pose: a deeper seed."""

from __future__ import annotations

from functools import partial

import tiny
from tiny import STAGES

DEEPER = (*STAGES, (32, 32, 2, 3, 1))  # in, out, stride, expansion, layers


opened = partial(tiny.opened, table=DEEPER)  # a job on the deeper seed
