r"""Compares MAESTER's forward pass here with the same network in PyTorch with timm's blocks.

    pip install -r requirements.txt -r benchmarks/requirements-parity.txt
    python benchmarks/maester_parity.py

The same weights, images and masks go through `pretext.maester` and through the same network built
from timm's `Block`, both in float32 at MAESTER's full size (80 x 80 pixels, patch 5, cls token,
encoder 192 x 14 x 1 head, decoder 128 x 7 x 8 heads). Weights are random, biases and norms included.
Prints the largest absolute differences; exits with 1 if one is above 1e-5 or a parameter count is not
MAESTER's. Not part of the tests, which do not need PyTorch.
"""

import functools
import sys

import jax
import numpy as np
import timm
import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch_peer import pick, positions

from his4mae_jax.config import get_default
from his4mae_jax.models import masking
from his4mae_jax.models.patches import patchify
from his4mae_jax.pretext import maester

TOLERANCE = 1e-5
PARAMETERS = {"encoder": 4_163_904, "decoder": 955_673}  # trainable ones of MAESTER
IMAGES, FOV, PATCH, SIDE = 4, 80, 5, 16
NORM = functools.partial(nn.LayerNorm, eps=1e-6)


class TorchEncoder(nn.Module):
    """Images `(B, 1, 80, 80)` to tokens of the visible patches, after the cls token."""

    def __init__(self, dim=192, depth=14, heads=1):
        super().__init__()
        self.patch_embed = nn.Conv2d(1, dim, kernel_size=PATCH, stride=PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio=2.0, qkv_bias=True, norm_layer=NORM) for _ in range(depth)
        )
        self.norm = NORM(dim)
        self.register_buffer("positions", 0.08 * positions(dim, SIDE))

    def forward(self, images, visible=None):
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.positions
        x = x if visible is None else pick(x, visible)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class TorchDecoder(nn.Module):
    """The encoder's tokens to the pixels of all patches `(B, 256, 25)`."""

    def __init__(self, embed_dim=192, dim=128, depth=7, heads=8):
        super().__init__()
        self.embed = nn.Linear(embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio=2.0, qkv_bias=True, norm_layer=NORM) for _ in range(depth)
        )
        self.norm = NORM(dim)
        self.pixels = nn.Linear(dim, PATCH**2)
        self.register_buffer("positions", positions(dim, SIDE))

    def forward(self, tokens, visible):
        x = self.embed(tokens)
        full = self.mask_token.repeat(len(x), SIDE**2, 1)
        full[torch.arange(len(x))[:, None], visible] = x[:, 1:]
        x = torch.cat([x[:, :1], full + self.positions], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.pixels(self.norm(x))[:, 1:]


def torch_loss(images, predicted, visible):
    """Return the mean squared error of the pixels of hidden patches (equation 2)."""
    target = nn.functional.unfold(images, kernel_size=PATCH, stride=PATCH).transpose(1, 2)
    hidden = torch.ones(target.shape[:2], dtype=torch.bool).scatter(1, visible, False)
    return nn.functional.mse_loss(predicted[hidden], target[hidden])


def random_params(models):
    """Return MAESTER's initial parameters with noise on every leaf: no zero bias, no norm of exactly 1."""
    leaves, tree = jax.tree.flatten(maester.init_params(jax.random.key(0), models))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.05 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def layer(name, params):
    """Return the `state_dict` entries of a linear or norm layer from its Flax parameters."""
    weight = params["scale"] if "scale" in params else params["kernel"].T
    return {f"{name}.weight": weight, f"{name}.bias": params["bias"]}


def transformer(params):
    """Return the `state_dict` entries of the blocks and the last norm."""
    places = {"norm1": "norm1", "qkv": "attn.qkv", "proj": "attn.proj", "norm2": "norm2", "fc1": "mlp.fc1",
              "fc2": "mlp.fc2"}  # fmt: skip
    entries = layer("norm", params["norm"])
    for i in range(len(params) - 1):
        for ours, theirs in places.items():
            entries |= layer(f"blocks.{i}.{theirs}", params[f"block{i:02d}"][ours])
    return entries


def load(module, entries):
    """Load `entries` into the module, which must need all of them and nothing else but its positions."""
    state = {name: torch.tensor(np.asarray(value)) for name, value in entries.items()}
    module.load_state_dict({**state, "positions": module.positions})
    return module.eval()


def to_torch(params):
    """The PyTorch encoder and decoder with our weights."""
    e, d = params["encoder"], params["decoder"]
    # Our kernel takes flattened patches; theirs is a convolution over them.
    kernel = e["patch_embed"]["kernel"].T.reshape(-1, 1, PATCH, PATCH)
    encoder = load(TorchEncoder(), {
        "patch_embed.weight": kernel, "patch_embed.bias": e["patch_embed"]["bias"], "cls_token": e["cls_token"],
        **transformer(e["transformer"]),
    })  # fmt: skip
    decoder = load(TorchDecoder(), {
        **layer("embed", d["embed"]), "mask_token": d["mask_token"], **transformer(d["transformer"]),
        **layer("pixels", d["pixels"]),
    })  # fmt: skip
    return encoder, decoder


def count(tree_or_module):
    if isinstance(tree_or_module, nn.Module):
        return sum(p.numel() for p in tree_or_module.parameters() if p.requires_grad)
    return sum(leaf.size for leaf in jax.tree.leaves(tree_or_module))


def forward_here(models, params, images, rng, settings):
    """Compute what is compared with this package: `({name: array}, visible indices)`."""
    visible, _ = masking.random_visible(rng, IMAGES, SIDE**2, settings.mask_ratio)
    patches = patchify(images, PATCH)
    encode = functools.partial(models.encoder.apply, {"params": params["encoder"]}, patches, with_cls=True)
    tokens = encode(visible)
    pixels = models.decoder.apply({"params": params["decoder"]}, tokens, visible)
    static, batch = {"models": models, "settings": settings}, {"image": images}
    prepared = maester.prepare(rng, batch, **static)
    loss, _ = maester.loss(params, None, batch, prepared, ready=False, **static)
    values = {"encoder, all patches": encode(), "encoder, visible patches": tokens, "decoder": pixels, "loss": loss}
    return {name: np.asarray(value) for name, value in values.items()}, np.asarray(visible)


@torch.no_grad()
def forward_there(encoder, decoder, images, visible):
    """Compute the same in PyTorch, as a list of arrays in the same order."""
    images, visible = torch.tensor(images)[:, None], torch.tensor(visible).long()
    tokens = encoder(images, visible)
    pixels = decoder(tokens, visible)
    loss = torch_loss(images, pixels, visible)
    values = (encoder(images), tokens, pixels, loss)
    return [value.numpy() for value in values]


def main():
    jax.config.update("jax_default_matmul_precision", "highest")  # an accelerator would round in matmuls
    config = get_default()
    config.model.cls_token = True
    models = maester.build(config)
    params = random_params(models)
    encoder, decoder = to_torch(params)
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, torch {torch.__version__}, timm {timm.__version__}"
    )
    failed = False
    for name, module in (("encoder", encoder), ("decoder", decoder)):
        here, there, want = count(params[name]), count(module), PARAMETERS[name]
        failed |= not here == there == want
        print(f"{name}: {here:,} parameters here, {there:,} in PyTorch, {want:,} in MAESTER")

    images = np.random.default_rng(0).random((IMAGES, FOV, FOV), np.float32)
    here, visible = forward_here(models, params, images, jax.random.key(2), maester.settings(config))
    print(f"{'':<25} {'shape':<15} {'largest value':>13} {'largest difference':>19}")
    for (name, value), other in zip(here.items(), forward_there(encoder, decoder, images, visible), strict=True):
        difference = np.abs(value - other).max() if value.shape == other.shape else np.inf
        failed |= not difference <= TOLERANCE  # so that NaN fails
        print(f"{name:<25} {str(value.shape):<15} {np.abs(value).max():>13.4f} {difference:>19.2e}")
    print(f"{'DIFFERENT' if failed else 'equal'} to {TOLERANCE:g}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
