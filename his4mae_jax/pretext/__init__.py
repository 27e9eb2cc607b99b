"""The training objectives, one module a method. Equations 2 to 5 of the paper: `his4mae` and `maester`."""
