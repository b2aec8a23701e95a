"""What trains: devices, processes, batches, steps, checkpoints."""
