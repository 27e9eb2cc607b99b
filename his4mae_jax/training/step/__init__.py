"""One jitted training step (equation 5): state, gradients, optimizer, the teacher's moving average."""
