"""The stages: functions from artifacts to artifacts. None calls another; scoring and remapping serve several."""
