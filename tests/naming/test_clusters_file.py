"""clusters.yaml: what is written can be read, and every mistake is one line that names the file."""

import pytest

from his4mae_jax.errors import UserError
from his4mae_jax.naming.clusters_file import Cluster, Clusters, read, untouched, write

CLUSTERS = Clusters(
    "abc",
    "cell: 1 #é.tif",
    (
        Cluster(1, "cluster 1", "#56B4E9", 0.25, 101.5),
        Cluster(2, "cluster 2", "#E69F00", 0.5, None),
        Cluster(3, "cluster 3", "#CC79A7", 0.25, 3.0),
    ),
)
NAMES = {i: f"cluster {i}" for i in (1, 2, 3)}


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "clusters.yaml", CLUSTERS)
    return tmp_path / "clusters.yaml"


def test_what_is_written_is_read(path):
    assert read(path, (1, 2, 3)) == CLUSTERS
    assert path.read_text().startswith("#") and "his4mae name" in path.read_text()
    for name in ("no", "3", "a: b", "# x", "Kern 核", "'", "null"):
        renamed = CLUSTERS.renamed({2: name})
        write(path, renamed)
        assert read(path) == renamed


def test_names_are_merged_in_the_order_of_their_first_appearance():
    merged = CLUSTERS.renamed({1: "IGNORE", 2: "er", 3: "er"})
    (one,) = merged.organelles().items()
    assert one[0] == 1 and one[1].name == "er" and one[1].clusters == (2, 3) and one[1].colour == "#E69F00"
    apart = CLUSTERS.renamed({1: "z", 2: "a", 3: "z"}).organelles()
    assert {i: (o.name, o.clusters) for i, o in apart.items()} == {1: ("z", (1, 3)), 2: ("a", (2,))}


def test_what_is_there_is_kept(path):
    path.write_text("one")
    assert write(path, CLUSTERS).name == "clusters.previous-1.yaml"
    assert write(path, CLUSTERS).name == "clusters.previous-2.yaml"
    assert (path.parent / "clusters.previous-1.yaml").read_text() == "one" and read(path) == CLUSTERS


def test_a_file_of_the_users_is_not_untouched(path):
    assert untouched(path, NAMES)
    text = path.read_text()
    for changed in (text + "# mine\n", text.replace("#56B4E9", "#000000"), text.replace("cluster 3", "golgi")):
        path.write_text(changed)
        assert not untouched(path, NAMES)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: cluster 2", "name: ''", "cluster 2 has no name"),
        ("name: cluster 2", "name:", "cluster 2 has no name"),
        ("  name: cluster 2\n", "", "cluster 2 has no name"),
        ("name: cluster 2", "name: no", "cluster 2: the name False is no text; put it in quotes"),
        ("name: cluster 2", 'name: "a\\nb"', "cannot be printed"),
        ("id: 3", "id: 2", "cluster 2 is listed twice"),
        ("id: 3", "id: 7", "there is no cluster 7: the labels have 1 to 3"),
        ("id: 3", "id: three", "entry 3 of clusters has no id"),
        ("- id: 3", "- 3\n- id: 3", "entry 3 of clusters has no id"),
        ("'#56B4E9'", "#56B4E9", "cluster 1: the colour is no colour (a # begins a comment"),
        ("'#56B4E9'", "red", "cluster 1: the colour is 'red'; give \"#RRGGBB\""),
        ("'#56B4E9'", "'#56B4E'", "#56B4E"),
        ("mean_grey: 3.0", "mean_grey: dark", "cluster 3: mean_grey is 'dark'"),
        ("mean_grey: 3.0", "mean: 3.0", "cluster 3 has the unknown key 'mean'"),
        ("clusters:", "clusters: [", "line "),
        ("name: cluster 2", "name: a\n  name: b", "name is given twice"),
        ("clusters:", "names:", "without the entries centres"),
        ("centres: abc", "centres:", "without the entries centres"),
    ],
)
def test_mistakes(path, old, new, words):
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(f"\n{old}", f"\n{new}", 1) if old.startswith("c") else text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        read(path, (1, 2, 3))
    assert words in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_no_clusters_yaml(path):
    for content in (b"", b"just text", b"[1, 2]", b"\xff\xfe\x00", b"a: b: c", b"\x00"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="clusters.yaml") as error:
            read(path)
        assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(UserError, match="not there; `his4mae segment`"):
        read(path)


def test_a_cluster_without_an_entry(path):
    with pytest.raises(UserError, match="cluster 4, 5 has no entry"):
        read(path, (1, 2, 3, 4, 5))
