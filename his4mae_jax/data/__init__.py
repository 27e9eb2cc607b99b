"""From files to fields of view. `datasets` opens what a config names; the rooms below hold each step of the way."""
