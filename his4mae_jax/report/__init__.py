"""What a user looks at: the figures of a run, and `his4mae inspect`."""
