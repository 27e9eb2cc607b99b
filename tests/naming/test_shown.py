"""How labels are shown: by the names and colours of clusters.yaml, if it is of these labels."""

import numpy as np

from his4mae_jax import palette
from his4mae_jax.clustering import centres
from his4mae_jax.naming import clusters_file
from his4mae_jax.naming.clusters_file import Cluster, Clusters
from his4mae_jax.naming.shown import shown
from his4mae_jax.output import records


def named(folder, *clusters, digest=None):
    fitted = centres.Centres(np.ones((3, 2), np.float32), np.eye(2, dtype=np.float32))
    centres.save(folder / "centres.npz", {3: fitted})
    digest = digest or records.centres_digest(folder, 3)
    clusters_file.write(folder / clusters_file.FILE, Clusters(digest, "image", clusters))
    return shown(folder, 3)


def test_without_names_labels_are_numbered(tmp_path):
    plain = shown(tmp_path, 2)
    assert plain.names == {1: "cluster 1", 2: "cluster 2"} and plain.colours[2] == palette.colour(2)


def test_labels_of_one_name_have_the_colour_of_the_first(tmp_path):
    look = named(
        tmp_path,
        Cluster(1, "nucleus", "#111111", 0.5),
        Cluster(2, "Ignore", "#222222"),
        Cluster(3, "nucleus", "#333333"),
    )
    assert look.names == {1: "nucleus", 2: "Ignore", 3: "nucleus"} and look.ignored == {2}
    assert look.colours == {1: "#111111", 2: "#222222", 3: "#111111"} and look.fractions == {1: 0.5}


def test_names_of_other_centres_are_left_out(tmp_path):
    look = named(tmp_path, Cluster(1, "nucleus", "#111111"), digest="0" * 16)
    assert look.stale and look.names[1] == "cluster 1"
