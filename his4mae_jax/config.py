"""Every setting with its default, and the checks a configuration must pass.

The files in `configs/` change only what differs from here. Defaults are the paper's:
Table 1 (codebook and losses), Table 2 (training), MAESTER's backbone.
"""

import difflib

import ml_collections

from his4mae_jax.errors import UserError

METHODS = ("his4mae", "maester", "sdae", "sdae_recon", "vae", "vit", "segmenter")
SUPERVISED = ("vit", "segmenter")  # trained on labels; they segment directly, without clusters


def get_default():
    """The full configuration, a locked `ConfigDict`."""
    c = ml_collections.ConfigDict()
    c.seed = 0
    c.method = "his4mae"  # one of METHODS

    d = c.data = ml_collections.ConfigDict()
    # Where volumes come from: "files" (the paths, URLs and names below), "phantom" (synthetic cells,
    # made in the workdir) or "betaseg" (cells of that data set's folder layout under data.root).
    # Names stand for known data sets: "betaseg:high_c1", "epfl:training",
    # "openorganelle:jrc_mus-pancreas-1"; --mode=fetch downloads what they need to data.root.
    d.source = "files"
    d.root = ""  # folder of the known data sets; for "phantom" that of its cells (empty: in the workdir)
    d.train = ()  # paths, URLs or names, or for "betaseg" cell names
    d.train_labels = ()  # their ground truth, for supervised methods only
    d.test = ""  # path (or cell) to segment and score
    d.test_labels = ""  # path of its ground truth, or its own name; empty: segment without scoring
    d.class_names = ()  # names of label ids 0, 1, ...; label 255 is never scored
    d.binary_labels = False  # labels are a mask: every id above 0 is class 1
    d.file_voxel_size_nm = ()  # z, y, x of the files above; goes before what they say themselves
    # Size to train and segment at; 0: as stored. An axis more than 1.2 times coarser stays as it is, and
    # slices are then taken across that axis only (data/volumes/anisotropy.py).
    d.voxel_size_nm = 0.0
    d.axes = "zyx"  # axes along which training slices are taken
    d.crop_min = 40  # pixels; side of the random crop that is resized to the field of view
    d.contrast_percentiles = (0.1, 99.9)  # mapped to 0 and 1
    d.contrast_window = ()  # grey levels mapped to 0 and 1, of all volumes; goes before percentiles
    d.invert = False  # swap black and white; of known data sets, once more than they say themselves
    d.missing_chunks = "fill"  # chunks that are not stored are the array's fill value, or an "error"
    d.in_memory_gb = 8.0  # volumes up to this size together are read once; larger ones stream
    d.cache_mb = 32  # MiB of decoded chunks kept for each volume that is streamed
    d.workers = 4  # threads that read volumes which cannot be read asynchronously (resampled ones)
    # Where fields of view are cut: on the "host", or on the "device", in whose memory the volumes lie. "auto": on
    # an accelerator, where they take at most device_fraction of its free memory. Both give the same samples.
    d.sampler = "auto"
    d.device_fraction = 0.4
    # Bricks of which fields of view come from a rolling pool, so that a batch does not read a thousand chunks. 0:
    # from anywhere, as in the paper; -1: 0 for volumes of at most in_memory_gb, and 64 for larger ones.
    d.pool_bricks = -1
    d.brick = 192  # voxels a side of a brick, or about that: bricks begin where chunks do
    d.steps_per_brick = 4  # steps after which one brick of the pool is replaced
    p = d.phantom = ml_collections.ConfigDict()
    p.cells = 3  # cells to train on; one more is held out
    p.size = 256  # voxels a side, at 16 nm
    p.seed = -1  # of the cells; -1: that of the run

    m = c.model = ml_collections.ConfigDict()
    m.fov = 80  # pixels
    m.patch_size = 5  # pixels
    m.embed_dim = 192
    m.depth = 14
    m.num_heads = 1
    m.mlp_ratio = 2.0
    m.decoder_dim = 128
    m.decoder_depth = 7
    m.decoder_num_heads = 8
    # Identity added to the decoder's query and key weights at the start: short runs learn
    # sooner to look at neighbouring patches. 0 is the paper's plain Xavier.
    m.decoder_mimetic = 0.0
    m.cls_token = False
    m.dtype = "float32"  # compute dtype, "float32" or "bfloat16"; parameters are float32

    o = c.objective = ml_collections.ConfigDict()
    o.mask_ratio = 0.5
    o.recon_on = "masked"  # "masked" patches, or "all" (equation 2 read literally)
    o.alpha = 1e-3  # weight of L_tea, equation 5
    o.beta = 2.5e-4  # weight of L_stu, equation 5

    t = c.teacher = ml_collections.ConfigDict()
    t.input = "full"  # "full" image, or the student's "visible" patches
    t.momentum = 0.996  # EMA momentum at the start, on a cosine to momentum_end
    t.momentum_end = 1.0

    b = c.codebook = ml_collections.ConfigDict()
    b.enabled = True  # False: the student is drawn to the teacher's tokens themselves
    b.size = 512  # the paper's k
    b.learning = "gradient"  # of L_tea (equation 3), or "ema" (VQ-VAE's running means)
    b.ema_decay = 0.99
    b.lr = 5e-4  # peak rate of the codebook's own Adam group
    # Fraction of the run after which codes are placed among the teacher's tokens and L_tea and
    # L_stu begin: the end of the warm-up. Distilling an encoder that knows nothing yet pulls
    # all tokens together, so very short runs want it later.
    b.start = 0.05
    b.init = "kmeans"  # of those tokens, or "samples" of them
    b.init_iterations = 10  # Lloyd iterations of "kmeans"
    b.gamma = 0.8  # equation 6
    b.isolated_below = 0.05  # isolated: used less than this times the uniform share, per epoch
    b.update_isolated = True

    a = c.sdae = ml_collections.ConfigDict()  # SdAE and SdAE-recon
    a.folds = 1  # of the masked tokens, each encoded by the teacher on its own
    a.align_weight = 1.0  # of the feature alignment beside the reconstruction

    u = c.supervised = ml_collections.ConfigDict()  # ViT and Segmenter
    u.classes = 0  # 0: as many as the data set has
    u.depth = 2  # blocks of Segmenter's mask transformer
    u.num_heads = 4  # of those

    v = c.vae = ml_collections.ConfigDict()  # its latent size is model.embed_dim
    v.width = 32  # channels, a multiple of 4
    v.blocks = 2
    v.kl_weight = 0.02  # pixel noise of 4 % of the grey range, see pretext/vae.py

    r = c.train = ml_collections.ConfigDict()
    r.epochs = 2800
    r.samples_per_epoch = 20_000
    r.batch_size = 256
    # Fields of view of a batch that a device takes at once, at most: less memory, the same steps but for rounding.
    # 0: on an accelerator all, on a CPU as many as its cache holds where a step is large.
    r.microbatch = 0
    r.steps = 0  # total steps; 0: epochs * samples_per_epoch / batch_size
    r.lr = 5e-4
    r.min_lr = 8e-7
    r.warmup = 0.05  # fraction of all steps
    r.weight_decay = 0.05
    r.betas = (0.9, 0.95)
    # Optimiser steps in one call of the device. 0: on an accelerator 25 where it cuts its own fields of view, else 1;
    # on a CPU 1 to 25 by the model's size.
    r.steps_per_call = 0
    r.require_accelerator = False  # True: refuse to train on a CPU
    r.log_every = 50  # steps
    r.checkpoint_every = 0  # steps; 0: ten times over the run
    r.keep_checkpoints = 10  # evenly kept ones, for the curve of DSC over training

    s = c.segment = ml_collections.ConfigDict()
    s.volume = ""  # another volume than the data's test one
    s.file_voxel_size_nm = ()  # z, y, x of segment.volume, likewise
    s.encoder = "student"  # or "teacher"
    # "expand" (the paper's expand-stride) or "cover" (MAESTER's: the model is run at every shift of
    # a pixel), and how tokens become voxels in the former: "linear" or "nearest".
    s.inference = "expand"
    s.expansion = "linear"
    s.centres = "kmeans"  # or "codebook": the codes, grouped to C clusters
    s.centres_file = ""  # centres.npz of another segmentation with this encoder, to apply in place of a fit
    s.clusters = 4  # C of the headline and of labels.ome.zarr
    s.stride = 40  # pixels between fields of view (S), a multiple of the patch
    s.axes = "z"  # slices across these axes; of several ("zyx"), scores are averaged
    s.smooth = 0.0  # sigma, in tokens, of a 3D Gaussian over the averaged tokens
    s.overhang = 0  # pixels that fields of view may reach beyond the border, on mirrored pixels
    s.symmetries = 1  # of the field of view, over which tokens are averaged: 2 (mirror), 4 (both flips) or 8 (all)
    s.shifts = 1  # of the token grid, by parts of a patch, over which score maps are averaged
    s.edge_weight = 0.25  # weight of a field of view's outermost tokens, 1 at its centre
    s.metric = "euclidean"  # of k-means; "whitened": by the noise between neighbouring tokens
    s.restarts = 10  # of k-means
    s.fraction = 1e-3  # of the voxels whose features fit the centres
    s.fit_voxels = 50_000  # at most so many: the fit's memory does not grow with the volume
    s.fit_tiles = 8  # at most so many tiles, drawn at random, are encoded for the fit
    s.within_mask = True  # fit centres inside the cell mask, where the data has one ...
    s.mask_margin = 10  # ... and so many voxels from its border: what is next to it looks mixed
    s.batch_fovs = 0  # fields of view a device encodes at once; sets the memory used. 0: what is quickest there
    s.tile = 512  # voxels a side of the largest piece held at once; sets the memory used
    s.block = (64, 128, 128)  # chunks of the label volume, z, y, x
    s.ome_zarr_version = "0.4"  # or "0.5"
    s.pyramid = True  # coarser levels of the volumes written, for viewers
    s.outputs = ()  # further formats of the labels: some of "precomputed", "tiff", "cellsketch"
    # Labels of the headline, by id or name, or "all", whose connected components are written too, with a table.
    s.instances = ()
    s.min_instance_voxels = 100  # smaller components are left out
    s.instance_connectivity = 6  # neighbours of a voxel (6, 18 or 26): more join instances that touch at a corner
    s.probabilities = False  # also write each label's probability, the softmax of its scores

    e = c.evaluate = ml_collections.ConfigDict()
    e.clusters = ()  # further values of C to score
    e.baselines = ("intensity", "filters")  # label-free classical rows beside ours
    e.curve_box = 256  # voxels; side of the box scored at each kept checkpoint; 0: no curve

    k = c.compare = ml_collections.ConfigDict()  # --mode=compare
    k.rows = ()  # ("name", ("key=value", ...)): one method or ablation each
    k.seeds = (0, 1, 2)
    k.figures = ()  # some of "slices", "curves", "codebook", "umap" (the paper's Figs. 2 to 5)
    return c.lock()


def get_small():
    """Defaults for minutes on a CPU, at 15 nm a voxel or so; each choice was measured
    (docs/results.md).

    What differs from the paper's settings makes up for a run far shorter than the paper's.
    """
    c = get_default()
    # A field of view of an organelle's size: a short run learns what is in view long before
    # it learns what is at each token of a large one.
    c.model.fov, c.model.patch_size, c.data.crop_min = 20, 4, 20
    # A small model takes many more steps in the same time.
    c.model.embed_dim, c.model.depth = 64, 4
    c.model.decoder_dim, c.model.decoder_depth, c.model.decoder_num_heads = 48, 1, 1
    c.model.decoder_mimetic = 1.0
    c.codebook.size, c.codebook.start = 64, 0.5
    c.train.lr, c.train.batch_size, c.train.samples_per_epoch = 2e-3, 64, 25_600
    c.train.keep_checkpoints = 3
    c.segment.axes, c.segment.stride, c.segment.smooth, c.segment.metric = "zyx", 8, 0.7, "whitened"
    c.segment.overhang = 16
    return c


def flat_keys(config, prefix=""):
    """All leaf keys in dotted form."""
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from flat_keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def flat_settings(saved):
    """`{dotted key: value}` of settings that a run saved as JSON, or of their dict; lists for tuples.

    A key that they lack was added after they were saved: it has its default, with which the run would be the same.
    """
    default, found = get_default().to_dict(), {}
    for key in flat_keys(get_default()):
        tree, value = saved, default
        for part in key.split("."):
            value = value[part]
            tree = tree.get(part, value) if isinstance(tree, dict) else value
        found[key] = _lists(tree)
    return found


def _lists(value):
    return [_lists(v) for v in value] if isinstance(value, (tuple, list)) else value


def nearest_key(key, config):
    """The existing dotted key most like `key`, or None."""
    keys = list(flat_keys(config))
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.4)
    if not close:  # a bare name without its section
        tails = {k.rsplit(".", 1)[-1]: k for k in keys}
        close = [tails[t] for t in difflib.get_close_matches(key.rsplit(".", 1)[-1], tails, n=1)]
    return close[0] if close else None


def _one_of(config, key, choices):
    value = config
    for part in key.split("."):
        value = value[part]
    if value not in choices:
        raise UserError(f"config key {key} is {value!r}: choose one of {', '.join(map(repr, choices))}")


def validate(config):
    """Raise `UserError` naming the first key whose value cannot work."""
    m, s, r, d = config.model, config.segment, config.train, config.data
    _one_of(config, "data.source", ("files", "phantom", "betaseg"))
    _one_of(config, "data.sampler", ("auto", "host", "device"))
    _one_of(config, "data.missing_chunks", ("fill", "error"))
    _one_of(config, "method", METHODS)
    _one_of(config, "segment.inference", ("expand", "cover"))
    _one_of(config, "segment.expansion", ("linear", "nearest"))
    _one_of(config, "segment.centres", ("kmeans", "codebook"))
    _one_of(config, "model.dtype", ("float32", "bfloat16"))
    _one_of(config, "objective.recon_on", ("masked", "all"))
    _one_of(config, "teacher.input", ("full", "visible"))
    _one_of(config, "codebook.learning", ("gradient", "ema"))
    _one_of(config, "codebook.init", ("kmeans", "samples"))
    _one_of(config, "segment.metric", ("euclidean", "whitened"))
    _one_of(config, "segment.encoder", ("student", "teacher"))
    _one_of(config, "segment.symmetries", (1, 2, 4, 8))
    _one_of(config, "segment.ome_zarr_version", ("0.4", "0.5"))
    _one_of(config, "segment.instance_connectivity", (6, 18, 26))
    checks = (
        ("model.fov", m.fov > 0 and m.fov % m.patch_size == 0, "a multiple of model.patch_size"),
        ("model.embed_dim", m.embed_dim % (4 * m.num_heads) == 0, "a multiple of 4 * model.num_heads"),
        ("model.decoder_dim", m.decoder_dim % (4 * m.decoder_num_heads) == 0,
         "a multiple of 4 * model.decoder_num_heads"),
        ("objective.mask_ratio", 0 < config.objective.mask_ratio < 1, "between 0 and 1"),
        ("teacher.momentum", 0 <= config.teacher.momentum <= 1, "between 0 and 1"),
        ("codebook.size", config.codebook.size > 1, "at least 2"),
        ("codebook.start", 0 <= config.codebook.start < 1, "a fraction of the run below 1"),
        ("codebook.gamma", 0 < config.codebook.gamma < 1, "between 0 and 1 (equation 6)"),
        ("data.crop_min", m.patch_size <= d.crop_min <= m.fov, "between model.patch_size and model.fov"),
        ("data.axes", bool(d.axes) and set(d.axes) <= set("zyx") and len(set(d.axes)) == len(d.axes),
         "some of the letters z, y, x, each at most once"),
        ("data.contrast_percentiles", len(d.contrast_percentiles) == 2
         and 0 <= d.contrast_percentiles[0] < d.contrast_percentiles[1] <= 100, "two rising numbers from 0 to 100"),
        ("data.contrast_window", not d.contrast_window
         or (len(d.contrast_window) == 2 and d.contrast_window[0] < d.contrast_window[1]),
         "two rising grey levels, or empty for percentiles"),
        ("data.voxel_size_nm", d.voxel_size_nm >= 0, "a size in nm, or 0 for that of the file"),
        ("data.cache_mb", isinstance(d.cache_mb, int) and d.cache_mb >= 0, "a whole number of MiB, 0 for none"),
        ("data.device_fraction", 0 < d.device_fraction <= 1, "above 0 and at most 1"),
        ("data.pool_bricks", d.pool_bricks >= -1, "a number of bricks, 0 for no pool or -1 for an automatic choice"),
        ("data.brick", d.brick > 0, "a number of voxels above 0"),
        ("data.steps_per_brick", d.steps_per_brick > 0, "at least 1"),
        ("train.steps_per_call", r.steps_per_call >= 0, "a number of steps, or 0 for an automatic choice"),
        ("train.batch_size", r.batch_size > 0, "at least 1"),
        ("train.microbatch", r.microbatch >= 0, "a number of fields of view, or 0 for an automatic choice"),
        ("train.log_every", r.log_every > 0, "at least 1"),
        ("train.warmup", 0 <= r.warmup < 1, "a fraction of the run below 1"),
        ("segment.stride", 0 < s.stride <= m.fov and s.stride % m.patch_size == 0,
         "a multiple of model.patch_size, at most model.fov"),
        ("segment.shifts", 1 <= s.shifts <= m.patch_size, "between 1 and model.patch_size"),
        ("segment.overhang", 0 <= s.overhang < m.fov, "at least 0 and below model.fov"),
        ("segment.mask_margin", s.mask_margin >= 0, "a number of voxels, 0 for none"),
        ("segment.clusters", 2 <= s.clusters < 255, "between 2 and 254"),
        ("segment.edge_weight", 0 < s.edge_weight <= 1, "above 0 and at most 1"),
        ("segment.fraction", 0 < s.fraction <= 1, "above 0 and at most 1"),
        ("segment.fit_voxels", s.fit_voxels > 0, "at least 1"),
        ("segment.fit_tiles", s.fit_tiles > 0, "at least 1"),
        ("segment.axes", bool(s.axes) and set(s.axes) <= set("zyx") and len(set(s.axes)) == len(s.axes),
         "some of the letters z, y, x, each at most once"),
        ("segment.smooth", 0 <= s.smooth <= 5, "between 0 and 5 tokens"),
        ("segment.tile", s.tile >= s.stride, "at least segment.stride"),
        ("segment.batch_fovs", s.batch_fovs >= 0, "at least 1, or 0 for what is quickest"),
        ("segment.block", len(s.block) == 3 and min(s.block) > 0, "three positive sizes (z, y, x)"),
        ("segment.outputs", set(s.outputs) <= {"precomputed", "tiff", "cellsketch"},
         "some of 'precomputed', 'tiff', 'cellsketch'"),
        ("segment.instances", all(isinstance(i, str) or (isinstance(i, int) and 0 <= i < 255) for i in s.instances),
         "label ids, names of labels, or 'all', in a tuple"),
        ("segment.min_instance_voxels", s.min_instance_voxels > 0, "at least 1"),
        ("evaluate.clusters", all(2 <= c < 255 for c in config.evaluate.clusters), "numbers between 2 and 254"),
        ("evaluate.baselines", set(config.evaluate.baselines) <= {"intensity", "filters"},
         "some of 'intensity', 'filters'"),
        ("segment.smooth", s.inference == "expand" or s.smooth == 0, '0 when segment.inference is "cover"'),
        ("segment.shifts", s.inference == "expand" or s.shifts == 1, '1 when segment.inference is "cover"'),
        ("segment.expansion", s.inference == "expand" or s.expansion == "linear",
         '"linear" when segment.inference is "cover"'),
        ("segment.centres", s.centres == "kmeans" or (config.method == "his4mae" and config.codebook.enabled),
         '"kmeans" unless method is "his4mae" with codebook.enabled'),
        ("sdae.folds", config.sdae.folds > 0, "at least 1"),
        ("vae.blocks", config.vae.blocks > 0, "at least 1"),
        ("compare.figures", set(config.compare.figures) <= {"slices", "curves", "codebook", "umap"},
         "some of 'slices', 'curves', 'codebook', 'umap'"),
        ("data.class_names", len(d.class_names) < 255, "at most 254 names"),
    )  # fmt: skip
    for key, fine, rule in checks:
        if not fine:
            raise UserError(f"config key {key} must be {rule}")
    if total_steps(config) < 1:
        raise UserError("config key train.steps: the run would have no step; set train.steps or train.epochs")


def steps_per_epoch(config):
    """Optimiser steps an epoch of `samples_per_epoch` takes, at least 1."""
    return max(1, config.train.samples_per_epoch // config.train.batch_size)


def total_steps(config):
    """Optimiser steps of the whole run."""
    if config.train.steps:
        return config.train.steps
    return config.train.epochs * config.train.samples_per_epoch // config.train.batch_size
