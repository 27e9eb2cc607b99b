"""From labelled voxels of a bound volume to a fitted probe: features, classifier, and places to label next."""

import dataclasses

import numpy as np

from his4mae_jax.clustering.centres import Centres, Classes
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.inference.tiling import Encoded
from his4mae_jax.inference.volume_encoder import VolumeEncoder
from his4mae_jax.probe.classifier import Classifier, fit_classifier
from his4mae_jax.probe.features import features_at, random_voxels, sample_tiles
from his4mae_jax.probe.labels import Labelled
from his4mae_jax.probe.rest import with_clusters
from his4mae_jax.probe.suggest import least_sure
from his4mae_jax.progress import Log, say

SMALL_TILES = 8  # of `sample_tiles`, for each tile that a fit of centres would encode
SAMPLE = 4_000  # voxels at random, which say how common classes are and from which suggestions are chosen


@dataclasses.dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
      labelled: what it was fitted on: labels, and voxels of clusters that stay.
      classifier: with its cross-validation.
      kept: numbers of the clusters that stay beside the classes.
      texture: of the features, see `Coverage.texture`.
      suggested_Sx3: voxels to label next, the least sure first.
      suggested_SxK: logits of these.
    """

    labelled: Labelled
    classifier: Classifier
    kept: tuple[int, ...]
    suggested_Sx3: np.ndarray
    suggested_SxK: np.ndarray
    texture: float = 0.0

    @property
    def classes(self) -> Classes:
        """As a centres file holds them."""
        head = self.classifier.head
        return Classes(self.labelled.names, head.weights_KxH, head.offset_K, head.hidden, self.texture)


def fit_probe(
    encoder: VolumeEncoder,
    image: VolumeLike,
    inside: Box,
    labelled: Labelled,
    *,
    hidden: int = 0,
    block: int = 64,
    folds: int = 5,
    suggestions: int = 30,
    clusters: Centres | None = None,
    encoded: Encoded | None = None,
    fit_tiles: int = 8,
    seed: int = 0,
    log: Log = say,
) -> Probe:
    """Fits a probe.

    Args:
      encoder: bound to the image; its `Coverage.texture` says whether the spread of features counts.
      image: that was labelled.
      inside: the box that is not padding.
      labelled: voxels.
      hidden, block, folds: see `fit_classifier`.
      suggestions: places to label next.
      clusters: those without labels stay beside the classes; None: none.
      encoded: what has been encoded before.
      fit_tiles: tiles of a fit of centres; random voxels are drawn from `SMALL_TILES` times as many small ones.
      seed: of all draws.
      log: prints progress.

    Raises:
      UserError: there is one class alone.
    """
    most_tiles = SMALL_TILES * fit_tiles
    random = random_voxels(encoder, image, inside, SAMPLE, most_tiles, seed)
    if encoded is not None or len(sample_tiles(encoder, image, inside)) <= most_tiles:
        features = features_at(
            encoder, image, inside, np.concatenate([labelled.index_Mx3, random]), encoded=encoded, log=log
        )
        features, unlabelled = np.split(features, [len(labelled.index_Mx3)])
    else:  # clicks lie elsewhere
        features = features_at(encoder, image, inside, labelled.index_Mx3, encoded=encoded, log=log)
        unlabelled = features_at(encoder, image, inside, random, encoded=encoded, log=log)
    own, kept = labelled, ()
    if clusters is not None:
        together = with_clusters(labelled, features, random, unlabelled, clusters)
        labelled, features, kept = together.labelled, together.features_MxD, together.kept
    if len(labelled.names) < 2:
        raise UserError(f"all labels are {labelled.names[0]!r}; label a second class, such as 'background'")
    classifier = fit_classifier(
        features, labelled.class_M, labelled.index_Mx3, unlabelled, hidden=hidden, block=block, folds=folds, seed=seed,
        log=log,
    )  # fmt: skip
    logits = classifier.head.logits(unlabelled)
    rows = least_sure(logits, random, own.index_Mx3, suggestions)
    return Probe(labelled, classifier, kept, random[rows], logits[rows], encoder.coverage.texture)
