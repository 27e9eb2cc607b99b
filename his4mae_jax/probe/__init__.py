"""A classifier of a few labelled voxels on frozen features: from clicks to named organelles.

`stage` carries out `his4mae probe`, `fit` what it shares with the library. `labels` and `points` read what was
labelled, `features` encodes the places that are needed, `rest` adds clusters without labels, `folds` cuts space into
the folds of cross-validation, `heads` fits, `cuts` moves the border of each class to where it takes its part of the
volume, `suggest` picks what to label next. The result is written as a centres file (`clustering.centres`), which
`segment` applies.
"""
