"""The networks of the paper (section 3.2) as Flax modules: pure functions of parameters and inputs."""
