"""Labels from tables and volumes: where they lie in the image that the encoder sees, and one line for what is wrong."""

import types

import numpy as np
import pytest

from his4mae_jax.data.volumes.in_memory import from_array
from his4mae_jax.errors import UserError
from his4mae_jax.probe.labels import read_labels
from his4mae_jax.probe.points import read_points

OWN = from_array(np.full((20, 30, 40), 9, np.uint8), 10.0, "cell")
IMAGE = from_array(np.full((10, 15, 20), 9, np.uint8), 20.0, "cell")
INSIDE = tuple(slice(0, n) for n in IMAGE.shape)


@pytest.fixture
def table(tmp_path):
    def write(text, name="points.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def read(path, image=IMAGE, inside=INSIDE, padding=(), **names):
    return read_labels(path, OWN, image, inside, padding, **names)


@pytest.mark.parametrize(
    "text",
    [
        "z,y,x,class\n2,5,9,b\n4,4,4,a\n",
        "x;y;z;label;guess\n9;5;2;b;a\n4;4;4;a;a\n",
        "index,axis-0,axis-1,axis-2,organelle\n0,2.0,5.2,8.9,b\n1,4,4,4,a\n",
        "z_nm,y_nm,x_nm,class\n20,50,90,b\n40,40,40,a\n",
        "z,y,x,unit,name\n0.02,0.05,0.09,um,b\n4,4,4,voxel,a\n\n1,1,1,um,\n",
    ],
    ids=["voxels", "other order", "napari", "nm", "unit"],
)
def test_points_fall_into_the_voxels_that_hold_them(table, text):
    labelled = read(table(text))
    assert labelled.names == ("b", "a")
    np.testing.assert_array_equal(labelled.index_Mx3, [(1, 2, 4), (2, 2, 2)])  # 10 nm voxels 2, 5, 9 in those of 20 nm
    np.testing.assert_array_equal(labelled.class_M, [0, 1])


def test_positions_in_nm_count_from_where_the_image_begins(table):
    path = table("z_nm,y_nm,x_nm,class\n120,50,90,b\n140,40,40,a\n")
    np.testing.assert_allclose(read_points(path, (10.0,) * 3, (100.0, 0.0, 0.0)).voxel_Mx3, [(2, 5, 9), (4, 4, 4)])


def test_the_names_of_the_data_order_the_classes(table):
    path = table("z,y,x,class\n2,5,9,mito\n4,4,4,rest\n8,8,8,new\n")
    assert read(path, class_names=("rest", "unused", "mito")).names == ("rest", "mito", "new")


def test_the_most_frequent_label_of_a_voxel_counts(table):
    labelled = read(table("z,y,x,class\n2,2,2,a\n2,2,3,b\n3,3,3,b\n9,9,9,a\n"))
    assert labelled.names == ("a", "b") and labelled.class_M.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("z,y,class\n1,1,a\n", "none are coordinates"),
        ("z,y,x\n1,1,1\n", "none is the class"),
        ("z,y,x,p,q\n1,1,1,a,b\n", "p, q may each be the class"),
        ("z,y,x,class\n1,1,one,a\n", "line 2: 'one' is no coordinate"),
        ("z,y,x,class\n1,1,1\n", "line 2: 3 cells for 4 columns"),
        ("z,y,x,class\n1,1,1,\n", "no labelled point"),
        ("z,y,x,class\n1,1,1,a\n2,2,2,a\n", "all labels are 'a'"),
        ("z,y,x,class\n1,1,1,a\n2,2,40,b\n2,-1,3,b\n", "line 3: voxel (2, 2, 40) is outside the image"),
        ("z,y,x,class\n1,1,1,a\n1,1,1,b\n", "is labelled as another class as well"),
        ("z,y,x,unit,class\n1,1,1,inch,a\n", "unit 'inch'"),
        ("", "empty"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_one_line(table, text, says):
    path = table(text)
    with pytest.raises(UserError) as error:
        read(path)
    assert says in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_points_in_padding_are_refused(table):
    grey = np.random.default_rng(0).integers(1, 255, (32, 32, 32)).astype(np.uint8)
    grey[:8, :8, :8] = 0
    image = from_array(grey, 10.0, "cell")
    own, inside = image, tuple(slice(0, 32) for _ in range(3))
    path = table("z,y,x,class\n20,20,20,a\n2,2,2,b\n")
    with pytest.raises(UserError, match="line 3: voxel .2, 2, 2. is in the padding"):
        read_labels(path, own, image, inside, (0,))
    with pytest.raises(UserError, match="in the padding"):
        read_labels(path, own, image, (slice(4, 32), *inside[1:]), ())


@pytest.mark.parametrize("size", [10, 20, 5])
def test_sparse_volumes_of_any_voxel_size(label_volume, size):
    factor = size / 10
    array = np.zeros([round(n / factor) for n in OWN.shape], np.uint8)
    at = lambda *p: tuple(int(v // factor) for v in p)  # noqa: E731
    array[at(2, 5, 9)], array[at(4, 4, 4)], array[at(18, 28, 38)] = 3, 1, 255
    path = label_volume(array, size=(size,) * 3, names={1: "rest", 3: "mito"})
    labelled = read(path)
    assert labelled.names == ("rest", "mito") and sorted(map(tuple, labelled.index_Mx3)) == [(1, 2, 4), (2, 2, 2)]
    assert read(path, names=("x", "y", "z")).names == ("x", "z")
    with pytest.raises(UserError, match="has id 3, but probe.names names the ids 1 to 2"):
        read(path, names=("x", "y"))


def test_volumes_of_another_space_or_without_labels_are_refused(label_volume):
    with pytest.raises(UserError, match="labels of 4 x 4 x 4 voxels .* do not fit the image cell of 20 x 30 x 40"):
        read(label_volume(np.ones((4, 4, 4), np.uint8), size=(10,) * 3))
    with pytest.raises(UserError, match="no labelled voxel"):
        read(label_volume(np.zeros(OWN.shape, np.uint8), name="empty.ome.zarr", size=(10,) * 3))


def test_of_many_labels_a_random_part_of_each_class_is_kept(label_volume):
    array = np.ones(OWN.shape, np.uint8)
    array[0, 0, :30] = 2
    labelled = read(label_volume(array, size=(10,) * 3), image=types.SimpleNamespace(**{
        "shape": OWN.shape, "voxel_size_nm": OWN.voxel_size_nm, "read": OWN.read}),
        inside=tuple(slice(0, n) for n in OWN.shape), names=("rest", "line"), most=20)  # fmt: skip
    assert labelled.counts.tolist() == [20, 20] and np.ptp(labelled.index_Mx3[labelled.class_M == 0][:, 0]) > 8
