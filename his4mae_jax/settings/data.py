"""The settings of the run itself and of `data`: volumes, grey levels, sampling."""

from his4mae_jax.settings.kinds import Choice, Flag, Letters, Number, Several, Text, Whole
from his4mae_jax.settings.methods import METHODS
from his4mae_jax.settings.setting import Scope, Setting

TRAINING, LABELS, FREE = Scope.TRAINING, Scope.LABELS, Scope.FREE
SEGMENT, EVALUATE = Scope.SEGMENT, Scope.EVALUATE

LARGEST_SEED = 2**32 - 1  # of JAX's and of scikit-learn's generators
AXES = Letters("zyx")
# Grey levels are those of a file, float32 at most.
GREY_LEVEL = Number(-1e30, 1e30)
VOXEL_SIZES = Several(
    "three sizes in nm (z, y, x) from 0.001 to 1e+06, or () for those of the file", Number(1e-3, 1e6), (0, 3)
)
PATHS = Several("a tuple of texts", Text("a text"), alone=True)

SETTINGS = (
    Setting("seed", 0, Whole(0, LARGEST_SEED),
            "Seed of everything that is random: samples, masks, initial weights, fits of cluster centres.", TRAINING),
    Setting("method", "his4mae", Choice(*METHODS),
            "The method that trains the encoder: HiS4MAE, or one of its baselines.", TRAINING),
    Setting("data.source", "files", Choice("files", "phantom", "betaseg"),
            'Where volumes come from: "files" (paths, URLs and names of known data sets), "phantom" (synthetic cells, '
            'drawn at the start), or "betaseg" (data.train and data.test are cell names of the BetaSeg data set).',
            TRAINING),
    Setting("data.root", "", Text("the path of a folder", "none (phantom cells then lie in the workdir)"),
            "Folder of the known data sets, to which they are downloaded, or of the phantom cells.", FREE),
    Setting("data.train", (), PATHS,
            "Volumes to train on: paths, URLs, or names such as betaseg:high_c1, epfl:training or "
            "openorganelle:jrc_mus-pancreas-1.", TRAINING),
    Setting("data.train_labels", (), PATHS,
            "Ground truth of each volume of data.train; read by supervised methods only.", LABELS),
    Setting("data.test", "", Text("a path, URL or name", "none"), "The volume to segment and score.", SEGMENT),
    Setting("data.test_labels", "", Text("a path, URL or name", "no scores"),
            "Ground truth of data.test, by which the segmentation is scored.", EVALUATE),
    Setting("data.class_names", (),
            Several("at most 254 different names that are not empty", Text("a text"), range(255), distinct=True),
            "Names of the label ids 0, 1, ...; the label 255 is never scored.", EVALUATE),
    Setting("data.binary_labels", False, Flag(), "Labels are a mask: every id above 0 is class 1.", LABELS),
    Setting("data.file_voxel_size_nm", (), VOXEL_SIZES,
            "Voxel size (z, y, x) of the files; it takes precedence over their metadata.", TRAINING),
    Setting("data.channel", -1, Whole(0, 10_000, special=-1, meaning="volumes with one channel"),
            "The channel of all images that is read, counted from 0; a path may name its own, as in cell.tif[c=1].",
            TRAINING),
    Setting("data.voxel_size_nm", 0.0, Number(1e-3, 1e6, "nm", special=0, meaning="that of the file"),
            "Voxel size to train and segment at; volumes are resampled to it. An axis that is more than 1.2 times "
            "coarser is not resampled, and slices are then taken across that axis only.", TRAINING),
    Setting("data.axes", "zyx", AXES, "Axes across which training slices are taken.", TRAINING),
    Setting("data.crop_min", 40, Whole(1, 4096, "pixels"),
            "Smallest side of the random crop that is resized to the field of view; the largest is model.fov.",
            TRAINING),
    Setting("data.contrast_percentiles", (0.1, 99.9),
            Several("two rising numbers from 0 to 100", Number(0, 100), (2,), rising=True),
            "Percentiles of each volume's grey levels that become 0 and 1.", TRAINING),
    Setting("data.contrast_window", (),
            Several("two rising grey levels, or () for data.contrast_percentiles", GREY_LEVEL, (0, 2), rising=True),
            "Grey levels of all volumes that become 0 and 1; it takes precedence over percentiles.", TRAINING),
    Setting("data.invert", False, Flag(),
            "Swap black and white; of a known data set that is inverted already, swap them back.", TRAINING),
    Setting("data.missing_chunks", "fill", Choice("fill", "error"),
            "A chunk that is not stored reads as the array's fill value, or is an error.", FREE),
    Setting("data.in_memory_gb", 8.0, Number(0, 1e6, "GiB"),
            "Volumes of at most this size together are read once and kept in memory; larger ones are streamed.", FREE),
    Setting("data.cache_mb", 32, Whole(0, 1_000_000, "MiB"),
            "Decoded chunks kept in memory for each streamed volume.", FREE),
    Setting("data.workers", 4, Whole(1, 1024),
            "Threads that read volumes which cannot be read asynchronously, such as resampled ones.", FREE),
    Setting("data.sampler", "auto", Choice("auto", "host", "device"),
            'Where fields of view are cut: on the host, or on the device, in whose memory the volumes then lie. "auto" '
            "takes the device for an accelerator with enough free memory. Both give the same samples.", FREE),
    Setting("data.device_fraction", 0.4, Number(0, 1, low_open=True),
            'Fraction of the free device memory that volumes may take with data.sampler = "auto".', FREE),
    Setting("data.pool_bricks", -1,
            Whole(0, 100_000, "bricks", special=-1,
                  meaning="0 where volumes fit in data.in_memory_gb or in the accelerator's memory, and 64 elsewhere"),
            "Bricks of voxels that fields of view are cut from, so that a batch does not read a thousand chunks; the "
            "bricks are replaced in turn. 0: cut from anywhere, as in the paper. A training that goes on keeps the "
            "choice it began with.", TRAINING),
    Setting("data.brick", 192, Whole(1, 100_000, "voxels"),
            "Side of a brick, about: bricks begin at chunk borders.", TRAINING),
    Setting("data.steps_per_brick", 4, Whole(1, 1_000_000, "steps"),
            "Steps after which one brick of the pool is replaced.", TRAINING),
    Setting("data.phantom.cells", 3, Whole(1, 1000),
            "Synthetic cells to train on; one more is drawn for the test.", TRAINING),
    Setting("data.phantom.size", 256, Whole(64, 4096, "voxels"), "Side of a synthetic cell, at 16 nm a voxel.",
            TRAINING),
    Setting("data.phantom.seed", -1, Whole(0, LARGEST_SEED, special=-1, meaning="that of the run"),
            "Seed of the synthetic cells.", TRAINING),
)  # fmt: skip
