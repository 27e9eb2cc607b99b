"""The settings of the stages after training: `segment`, `evaluate`, `export`, `compare`."""

from his4mae_jax.settings.data import AXES, LARGEST_SEED, VOXEL_SIZES
from his4mae_jax.settings.kinds import Choice, Either, Flag, Number, Row, Several, Text, Whole
from his4mae_jax.settings.setting import Scope, Setting

SEGMENT, NAME, EVALUATE, EXPORT, COMPARE = (
    Scope.SEGMENT, Scope.NAME, Scope.EVALUATE, Scope.EXPORT, Scope.COMPARE,
)  # fmt: skip
CLUSTERS = Whole(2, 254)  # labels are uint8, and 255 is no label


def some_of(*options: str) -> Several:
    """The kind of a tuple of some of `options`, each at most once."""
    return Several("a tuple of some of " + ", ".join(map(repr, options)), Choice(*options), distinct=True)


SETTINGS = (
    Setting("segment.volume", "", Text("a path, URL or name", "data.test"), "The volume to segment.", SEGMENT),
    Setting("segment.file_voxel_size_nm", (), VOXEL_SIZES,
            "Voxel size (z, y, x) of segment.volume; it takes precedence over the file's metadata.", SEGMENT),
    Setting("segment.encoder", "student", Choice("student", "teacher"), "The encoder to segment with.", SEGMENT),
    Setting("segment.inference", "expand", Choice("expand", "cover"),
            'How a volume is covered: "expand", the paper\'s expand-stride, or "cover", MAESTER\'s cover-stride, which '
            "encodes the volume at every shift of a pixel.", SEGMENT),
    Setting("segment.expansion", "linear", Choice("linear", "nearest"),
            "How expand-stride interpolates from tokens to voxels.", SEGMENT),
    Setting("segment.centres", "kmeans", Choice("kmeans", "codebook"),
            "Cluster centres: k-means on a sample of features, or the codes of the codebook, grouped to "
            "segment.clusters.", SEGMENT),
    Setting("segment.centres_file", "", Text("the path of a centres.npz", "a fit of its own"),
            "Centres of another segmentation with this encoder, to apply.", SEGMENT),
    Setting("segment.clusters", 4, CLUSTERS, "Clusters of labels.ome.zarr and of the headline score, the paper's C.",
            SEGMENT),
    Setting("segment.stride", 40, Whole(1, 4096, "pixels"),
            "Distance between fields of view, the paper's S; a multiple of model.patch_size.", SEGMENT),
    Setting("segment.axes", "z", AXES, "Axes across which slices are encoded; the scores of several are averaged.",
            SEGMENT),
    Setting("segment.smooth", 0.0, Number(0, 5, "tokens"), "Sigma of a 3D Gaussian over the averaged tokens.",
            SEGMENT),
    Setting("segment.overhang", 0, Whole(0, 4096, "pixels"),
            "How far fields of view reach beyond the border of the volume, on mirrored pixels.", SEGMENT),
    Setting("segment.symmetries", 1, Choice(1, 2, 4, 8),
            "Symmetries of the field of view over which tokens are averaged: 2 (mirror), 4 (both flips), 8 (all).",
            SEGMENT),
    Setting("segment.shifts", 1, Whole(1, 1024),
            "Shifts of the token grid, by fractions of a patch, over which score maps are averaged.", SEGMENT),
    Setting("segment.edge_weight", 0.25, Number(0, 1, low_open=True),
            "Weight of the outermost tokens of a field of view where fields of view overlap; 1 at its centre.",
            SEGMENT),
    Setting("segment.metric", "euclidean", Choice("euclidean", "whitened"),
            'Metric of k-means; "whitened": by the covariance of the noise between neighbouring tokens.', SEGMENT),
    Setting("segment.restarts", 10, Whole(1, 1000), "Restarts of k-means.", SEGMENT),
    Setting("segment.fraction", 1e-3, Number(1e-9, 1), "Fraction of the voxels whose features fit the centres.",
            SEGMENT),
    Setting("segment.fit_voxels", 50_000, Whole(1, 100_000_000, "voxels"),
            "Most voxels of that sample, which bound the memory of the fit.", SEGMENT),
    Setting("segment.fit_tiles", 8, Whole(1, 1_000_000, "tiles"),
            "Most tiles, drawn at random, that are encoded for the fit.", SEGMENT),
    Setting("segment.within_mask", True, Flag(), "Fit centres inside the cell mask only, where the data has one.",
            SEGMENT),
    Setting("segment.mask_margin", 10, Whole(0, 10_000, "voxels"),
            "Distance to the border of that mask below which no voxel is sampled: features there are mixed.", SEGMENT),
    Setting("segment.batch_fovs", 0, Whole(1, 1_000_000, "fields of view", special=0, meaning="an automatic choice"),
            "Fields of view that a device encodes at once; it sets the memory used.", SEGMENT),
    Setting("segment.tile", 512, Whole(1, 1_000_000, "voxels"),
            "Side of the largest piece of the volume in memory; it sets the memory used.", SEGMENT),
    Setting("segment.block", (64, 128, 128),
            Several("three whole numbers (z, y, x) from 1 to 4,096", Whole(1, 4096), (3,)),
            "Chunks of the label volume.", SEGMENT),
    Setting("segment.ome_zarr_version", "0.4", Choice("0.4", "0.5"), "OME-Zarr version of the volumes written.",
            SEGMENT),
    Setting("segment.pyramid", True, Flag(), "Write coarser levels of the volumes as well, for viewers.", SEGMENT),
    Setting("segment.outputs", (), some_of("precomputed", "tiff", "cellsketch"),
            "Further formats in which the labels are written.", SEGMENT),
    Setting("segment.instances", (),
            Several("a tuple of label ids from 0 to 254, names of labels, or 'all'",
                    Either(Whole(0, 254), Text("a name"))),
            "Labels, or names in clusters.yaml, whose connected components are written, with a table.", SEGMENT),
    Setting("segment.min_instance_voxels", 100, Whole(1, 2**62, "voxels"), "Smaller instances are left out.", SEGMENT),
    Setting("segment.instance_connectivity", 6, Choice(6, 18, 26),
            "Neighbours of a voxel within an instance; with more, instances that touch at a corner are one.", SEGMENT),
    Setting("segment.probabilities", False, Flag(),
            "Write the probability of each label as well, the softmax of its scores.", SEGMENT),
    Setting("name.masks", False, Flag(), "Write a mask for each name of clusters.yaml as well.", NAME),
    Setting("name.from_truth", "", Choice("", "many_to_one", "one_to_one"),
            "Take names over from the matching with ground truth in metrics.json: each cluster's is the class that it "
            "overlaps most, or each class names one cluster.", NAME),
    Setting("evaluate.clusters", (), Several("a tuple of whole numbers from 2 to 254", CLUSTERS),
            "Further numbers of clusters to segment and score with.", EVALUATE),
    Setting("evaluate.baselines", ("intensity", "filters"), some_of("intensity", "filters"),
            "Label-free classical baselines to score beside the method.", EVALUATE),
    Setting("evaluate.curve_box", 256, Whole(1, 1_000_000, "voxels", special=0, meaning="no curve"),
            "Side of the box that is scored at each kept checkpoint, for the curve of DSC over training.", EVALUATE),
    Setting("export.name", "", Text("a name", "one after the workdir"), "Name of the model for bioimage.io.", EXPORT),
    Setting("export.authors", ("The his4mae_jax contributors",), Several("a tuple of names", Text("a name")),
            "Authors of the exported model.", EXPORT),
    Setting("export.license", "Apache-2.0", Text("an SPDX identifier, such as 'CC-BY-4.0'"),
            "Licence of the exported model.", EXPORT),
    Setting("compare.rows", (), Several("a tuple of pairs of a name and ('key=value', ...)", Row()),
            "Rows of the comparison, one method or ablation each: a name, and the settings that it changes.", COMPARE),
    Setting("compare.seeds", (0, 1, 2),
            Several(f"different whole numbers from 0 to {LARGEST_SEED:,}, such as (0, 1, 2)", Whole(0, LARGEST_SEED),
                    range(1, 10_001), distinct=True),
            "Seeds with which each row is trained and scored.", COMPARE),
    Setting("compare.figures", (), some_of("slices", "curves", "codebook", "umap"),
            "Figures of the comparison (the paper's Figs. 2 to 5).", COMPARE),
)  # fmt: skip
