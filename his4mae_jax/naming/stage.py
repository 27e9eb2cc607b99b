"""What the segment stage does with clusters.yaml, and the name stage."""

from collections.abc import Callable, Mapping

import ml_collections

from his4mae_jax import files, palette
from his4mae_jax.bucket.path import Place, place
from his4mae_jax.data.datasets import Target
from his4mae_jax.data.volumes.volume import VolumeLike, open_volume
from his4mae_jax.errors import UserError, mask
from his4mae_jax.naming import clusters_file
from his4mae_jax.naming.clusters_file import FILE, Cluster, Clusters
from his4mae_jax.naming.measure import measure
from his4mae_jax.naming.organelles import LABELS, instance_ids, manifest, write_organelles
from his4mae_jax.naming.truth import names_from_metrics
from his4mae_jax.output import records
from his4mae_jax.output.outputs import stored_names, voxel_damage
from his4mae_jax.progress import Log


def check(
    config: ml_collections.ConfigDict, folder: Place, label_names: Mapping[int, str]
) -> ml_collections.ConfigDict:
    """Checks, before anything long, clusters.yaml and the names in `segment.instances`.

    Args:
      config: the configuration.
      folder: of the labels, written or to come.
      label_names: of the labels to come, by id.

    Returns:
      The configuration for the segment stage: `segment.instances` has labels only, no names of clusters.yaml, whose
      instances `after_segment` writes.

    Raises:
      UserError: a clusters.yaml is damaged, or `segment.instances` names neither a label nor a cluster.
    """
    known: set[str] = set()
    for path in _files(config, folder):
        if path.exists():
            known = {organelle.name for organelle in clusters_file.read(path).organelles().values()}
            break
    texts = {item for item in config.segment.instances if isinstance(item, str)} - {"all", *label_names.values()}
    if unknown := sorted(texts - known):
        choices = ", ".join(dict.fromkeys((*label_names.values(), *sorted(known))))
        raise UserError(
            f"config key segment.instances: there is no label {unknown[0]!r}; choose of {choices}, or 'all' (names of "
            f"clusters are read from {folder / FILE})"
        )
    if not texts:
        return config
    of_labels = config.copy_and_resolve_references()
    of_labels.segment.instances = tuple(item for item in config.segment.instances if item not in texts)
    return of_labels


def _files(config: ml_collections.ConfigDict, folder: Place) -> list[Place]:
    """Where names of the clusters may be: in the folder, then beside `segment.centres_file`."""
    beside = config.segment.centres_file
    return [folder / FILE, *([place(beside).parent / FILE] if beside else [])]


def after_segment(config: ml_collections.ConfigDict, folder: Place, target: Target, log: Log) -> None:
    """Writes clusters.yaml for the labels in a folder, unless that of the same centres is there.

    Names of other centres are kept as clusters.previous-<N>.yaml. Names travel with the centres: those beside
    `segment.centres_file` are taken over. Volumes by name that are there are written anew if names are, and so are
    the instances of names in `segment.instances`.

    Args:
      config: the configuration, as `check` got it.
      folder: of the labels.
      target: the volume that was segmented.
      log: prints one line.

    Raises:
      UserError: a clusters.yaml is damaged, or something cannot be read or written.
    """
    path, names = folder / FILE, stored_names(records.volume(folder / LABELS))
    centres = records.centres_digest(folder, len(names))
    fresh = not path.exists() or clusters_file.read(path).centres != centres
    if fresh:
        clusters = _new(config, folder, target.output, names, centres, log)
        with files.writing(path):
            aside = clusters_file.write(path, clusters)
        if aside:
            log(f"segment: {path} named clusters of other centres; it is kept as {aside}")
        log(f"segment: clusters in {path}; name them there, then run his4mae name")
    else:
        clusters = clusters_file.read(path, list(names))
        log(f"segment: names in {path} stay, the centres are the same")
    wanted = {i for i in config.segment.instances if isinstance(i, str)} - {"all", *names.values()}
    known = {organelle.name for organelle in clusters.organelles().values()}
    if lost := sorted(wanted - known):
        log(f"segment: no cluster has the name {', '.join(lost)} any more, so no instances of it; see {path}")
    if (folder / manifest(folder).path.name).exists() or wanted & known:
        if not known or (fresh and known <= set(names.values())):
            manifest(folder).remove()  # they are of other labels, and these have no names yet
            return
        reduced = config.copy_and_resolve_references()
        reduced.segment.instances = tuple(i for i in config.segment.instances if i not in lost)
        write_organelles(reduced, folder, clusters, _job(folder), log, lambda: target)


def _new(
    config: ml_collections.ConfigDict,
    folder: Place,
    image: VolumeLike,
    names: Mapping[int, str],
    centres: str,
    log: Log,
) -> Clusters:
    """The clusters of the labels, with their names and colours beside `segment.centres_file` where they are there."""
    labels = open_volume(records.volume(folder / LABELS), image=False)
    given: dict[int, Cluster] = {}
    for path in _files(config, folder)[1:]:
        if path.exists() and clusters_file.read(path).centres == centres:
            given = {c.id: c for c in clusters_file.read(path, list(names)).clusters}
            log(f"segment: names of clusters from {path}, of the same centres")
    facts = measure(labels, image, list(names), log)
    clusters = []
    for i in given or names:  # ids of organelles follow the order of the file
        fraction, grey = facts[i]
        name, colour = (given[i].name, given[i].colour) if given else (names[i], palette.colour(i))
        mean_grey = None if grey is None else float(f"{grey:.5g}")
        clusters.append(Cluster(i, name, colour, round(float(fraction), 6), mean_grey))
    return Clusters(centres, mask(image.name), tuple(clusters))


def name(
    config: ml_collections.ConfigDict,
    folder: Place,
    log: Log,
    open_target: Callable[[], Target] | None = None,
) -> list[Place]:
    """Writes the volumes by name, as clusters.yaml in the folder names clusters.

    Args:
      config: the configuration, of which `name.*` and the outputs of `segment.*` count.
      folder: of the labels.
      log: prints one line.
      open_target: opens the volume that was segmented, for CellSketch.

    Returns:
      The paths of what was written.

    Raises:
      UserError: there are no labels, clusters.yaml is missing or wrong, or something is in the way.
    """
    records.segmented(folder, ())
    path, names = folder / FILE, stored_names(records.volume(folder / LABELS))
    centres = records.centres_digest(folder, len(names))
    clusters = clusters_file.read(path)
    if clusters.centres != centres:
        raise UserError(
            f"{path}: names clusters of other centres than those of {folder / LABELS}; run `his4mae segment` again, "
            "which keeps the file aside and writes a new one"
        )
    clusters = clusters_file.read(path, list(names))
    if found := voxel_damage(folder, log, LABELS):
        raise UserError(f"{found[0]}; run the segment stage again, which makes damaged labels anew")
    if config.name.from_truth:
        renamed = clusters.renamed(names_from_metrics(folder, centres, config.name.from_truth))
        if renamed != clusters:
            instance_ids(config.segment.instances, renamed.organelles(), folder)  # before anything is written
            with files.writing(path):
                if clusters_file.untouched(path, names):
                    files.write_text(path, renamed.text())
                else:
                    log(f"name: the names before are kept as {clusters_file.write(path, renamed)}")
            clusters = renamed
        log(f"name: names of {config.name.from_truth.replace('_', '-')} matching with ground truth, in {path}")
    return write_organelles(config, folder, clusters, _job(folder), log, open_target)


def _job(folder: Place) -> str:
    return records.segmentation(folder).get("job", "")
