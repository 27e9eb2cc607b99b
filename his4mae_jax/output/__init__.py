"""What a segmentation writes: label volumes, pyramids, instances, and the formats of other programs."""
