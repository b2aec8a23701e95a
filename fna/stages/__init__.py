"""The stages: functions from artifacts to artifacts, which do not know each other."""
