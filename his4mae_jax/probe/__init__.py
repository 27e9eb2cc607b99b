"""A classifier of a few labelled voxels on frozen features: from clicks to named organelles.

`stage` carries out `his4mae probe`. `labels` and `points` read what was labelled, `features` encodes the places that
are needed, `folds` cuts space into the folds of cross-validation, `linear` and `hidden` fit, `cuts` moves the border of
each class to where its Dice is best, `suggest` picks what to label next. The result is written as a centres file
(`clustering.centres`), which `segment` applies.
"""
