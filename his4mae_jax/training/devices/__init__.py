"""Devices and processes: the mesh, several hosts as one run, a CPU's cores as devices."""
