"""TIFF stacks: headers, values, metadata."""
