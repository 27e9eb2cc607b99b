"""The names of the pretext methods.

`pretext.methods` gives each its module and may not be imported from here, a lower floor: a test holds the two equal.
"""

METHODS = ("his4mae", "maester", "sdae", "sdae_recon", "vae", "vit", "segmenter")
SUPERVISED = ("vit", "segmenter")  # trained on ground truth; they segment directly, without clusters
MASKED = ("his4mae", "maester", "sdae", "sdae_recon")  # hide patches, by objective.mask_ratio
EQUAL_FOLDS = ("sdae", "sdae_recon")  # split the hidden patches into sdae.folds
