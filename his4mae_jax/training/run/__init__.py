"""The training run: data for each step, the loop, logs, checkpoints, and stopping when the machine is reclaimed."""
