"""What a volume is, and views of it: crops, resampling, contrast, padding, anisotropy, labels, block-wise reading."""
