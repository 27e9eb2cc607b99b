"""What a user looks at: the figures of a run, its page `report/index.html`, and `his4mae inspect`."""
