"""Training: `run` is the loop and its checkpoints, `step` one optimizer step, `devices` the mesh and its hosts."""
