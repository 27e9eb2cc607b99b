"""The same training step, encoding and labelling in idiomatic PyTorch.

For train_throughput.py and segment_throughput.py, which run it in turn with this project. The networks are
those of `pretext.maester` and `pretext.his4mae`, with the operations of timm's `Block` (fused qkv,
scaled_dot_product_attention), so that only torch is needed. `Step.load` takes our parameters; the losses of
both then agree. Crops are cut on the device from a volume in its memory; fused AdamW; bfloat16 by autocast;
torch.compile, with any of its modes, of loss and gradient together.
"""

import contextlib
import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional

PLANES = torch.tensor([[1, 2], [0, 2], [0, 1]])


def positions(dim, side):
    """Return the fixed 2D sin-cos positions `(side**2, dim)`: sin, cos of the column, then of the row."""
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.reshape(-1, 1) * omega for place in (column, row)]
    return torch.cat([wave(a) for a in angles for wave in (torch.sin, torch.cos)], dim=1).float()


def pick(tokens, index):
    """Gather tokens `(B, T, D)` at the indices `(B, V)`: `(B, V, D)`."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


class Block(nn.Module):
    """A pre-LayerNorm transformer block; parameters are named as timm's."""

    def __init__(self, dim, heads, ratio):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, int(dim * ratio)), nn.Linear(int(dim * ratio), dim)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        out = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, D)
        x = x + self.proj(out)
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class Encoder(nn.Module):
    """Patches `(B, N, P)` to tokens, only those at `visible` if given; after the cls token, if there is one."""

    def __init__(self, model):
        super().__init__()
        side = model.fov // model.patch_size
        self.patch_embed = nn.Linear(model.patch_size**2, model.embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, model.embed_dim)) if model.cls_token else None
        self.blocks = nn.ModuleList(
            Block(model.embed_dim, model.num_heads, model.mlp_ratio) for _ in range(model.depth)
        )
        self.norm = nn.LayerNorm(model.embed_dim, eps=1e-6)
        self.register_buffer("places", 0.08 * positions(model.embed_dim, side))

    def forward(self, patches, visible=None):
        places = self.places if visible is None else self.places[visible]
        x = self.patch_embed(patches if visible is None else pick(patches, visible)) + places
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Decoder(nn.Module):
    """The encoder's tokens to the pixels of all patches `(B, N, P)`."""

    def __init__(self, model):
        super().__init__()
        self.side = model.fov // model.patch_size
        self.embed = nn.Linear(model.embed_dim, model.decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, model.decoder_dim))
        self.blocks = nn.ModuleList(
            Block(model.decoder_dim, model.decoder_num_heads, model.mlp_ratio) for _ in range(model.decoder_depth)
        )
        self.norm = nn.LayerNorm(model.decoder_dim, eps=1e-6)
        self.pixels = nn.Linear(model.decoder_dim, model.patch_size**2)
        self.register_buffer("places", positions(model.decoder_dim, self.side))

    def forward(self, tokens, visible):
        x = self.embed(tokens)
        B, V = visible.shape
        cls, x = x[:, : x.shape[1] - V], x[:, x.shape[1] - V :]
        full = self.mask_token.to(x.dtype).expand(B, self.side**2, -1)
        full = full.scatter(1, visible[..., None].expand(-1, -1, x.shape[-1]), x) + self.places
        x = torch.cat([cls, full], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.pixels(self.norm(x))[:, cls.shape[1] :].float()


class Network(nn.Module):
    """Student, teacher and codebook of a config whose method is "his4mae" or "maester"."""

    def __init__(self, config):
        super().__init__()
        self.distils, o = config.method == "his4mae", config.objective
        self.encoder, self.decoder = Encoder(config.model), Decoder(config.model)
        if self.distils:
            self.codes = nn.Parameter(torch.randn(config.codebook.size, config.model.embed_dim))
        self.alpha, self.beta, self.patch = o.alpha, o.beta, config.model.patch_size
        self.hidden_ratio = o.mask_ratio

    def forward(self, teacher, images, order):
        """Return `(loss, chosen codes)` of images `(B, F, F)`; `order` `(B, N)` permutes the patches of each."""
        B, F, _ = images.shape
        g = F // self.patch
        patches = images.reshape(B, g, self.patch, g, self.patch).transpose(2, 3).reshape(B, g * g, -1)
        V = int(g * g * (1 - self.hidden_ratio) + 1e-9)
        visible, hidden = order[:, :V].sort(dim=1).values, order[:, V:]
        tokens = self.encoder(patches, visible)
        predicted = self.decoder(tokens, visible)
        loss = functional.mse_loss(pick(predicted, hidden), pick(patches, hidden))
        if not self.distils:
            return loss, None
        with torch.no_grad():
            full = teacher(patches).float()[:, -g * g :]
            flat = full.reshape(-1, full.shape[-1])
            with torch.autocast(images.device.type, enabled=False):
                scores = torch.addmm(self.codes.square().sum(1), flat, self.codes.T, alpha=-2)
            index = scores.argmin(dim=1)
        quantised = self.codes[index].reshape(full.shape)
        loss_tea = functional.mse_loss(quantised, full)
        chosen = pick(quantised.detach(), visible)
        loss_stu = (1 - functional.cosine_similarity(tokens.float()[:, -V:], chosen, dim=-1)).mean()
        return loss + self.alpha * loss_tea + self.beta * loss_stu, index


class Step:
    """Training steps on a volume (uint8, NumPy) in the device's memory, and encoding.

    `mode` is one of torch.compile's, or "none"; with `half` it computes in bfloat16.
    """

    def __init__(self, config, volume, device, mode="default", half=False):
        self.config, self.device = config, torch.device(device)
        torch.set_float32_matmul_precision("high" if half else "highest")
        torch.manual_seed(config.seed)
        self.volume = torch.from_numpy(volume).to(self.device)
        self.network = Network(config).to(self.device)
        self.teacher = copy.deepcopy(self.network.encoder).requires_grad_(False)
        self._average = list(self.teacher.parameters()), list(self.network.encoder.parameters())
        self.cast = torch.autocast(self.device.type, torch.bfloat16) if half else contextlib.nullcontext()
        compiled = (lambda f: f) if mode == "none" else (lambda f: torch.compile(f, mode=mode))
        self._loss, self._encode = compiled(self.network.forward), compiled(self.network.encoder.forward)
        self._cut = compiled(self.cut)
        self.optimizer = torch.optim.AdamW(self._groups(), betas=tuple(config.train.betas), fused=True)
        if self.network.distils:
            self.usage = torch.zeros(config.codebook.size, device=self.device)

    def _groups(self):
        c = self.config
        named = dict(self.network.named_parameters())
        decay, plain = ([p for n, p in named.items() if (p.ndim == 2) == is_2d and n != "codes"] for is_2d in (1, 0))
        groups = [
            {"params": decay, "weight_decay": c.train.weight_decay, "lr": c.train.lr},
            {"params": plain, "weight_decay": 0.0, "lr": c.train.lr},
        ]
        if self.network.distils:
            groups.append({"params": [named["codes"]], "weight_decay": 0.0, "lr": c.codebook.lr, "eps": 1e-15})
        return groups

    def load(self, params):
        """Load the parameters `{"encoder", "decoder", ...}` of this project."""
        state = {}
        for part in ("encoder", "decoder"):
            for name, value in flat(params[part]):
                state[f"{part}.{name}"] = value
        if self.network.distils:
            state["codes"] = torch.tensor(np.asarray(params["codebook"]["codes"]))
        missing, unknown = self.network.load_state_dict(state, strict=False)
        if unknown or any(not name.endswith("places") for name in missing):
            raise ValueError(f"parameters that do not fit: {missing}, {unknown}")
        self.teacher.load_state_dict(self.network.encoder.state_dict())

    def cut(self):
        """Draw fields of view `(B, F, F)` in [0, 1]: any axis, place and side, flipped and transposed at random."""
        B, F = self.config.train.batch_size, self.config.model.fov
        draw = lambda *shape: torch.rand(*shape, device=self.device)  # noqa: E731
        axis = (draw(B) * 3).long()
        side = (draw(B) * (F + 1 - self.config.data.crop_min)).floor() + self.config.data.crop_min
        plane = PLANES.to(self.device)[axis]
        extent = torch.ones(B, 3, device=self.device).scatter(1, plane, side[:, None].expand(-1, 2))
        shape = torch.tensor(self.volume.shape, device=self.device)
        start = (draw(B, 3) * (shape - extent + 1)).long()
        step = torch.zeros(B, 2, 3, dtype=torch.long, device=self.device).scatter(2, plane[..., None], 1)
        grid = torch.arange(F, device=self.device)
        row, column = step[:, None, None].unbind(3)
        at = start[:, None, None] + grid[:, None, None] * row + grid[:, None] * column
        z, y, x = torch.minimum(at, shape - 1).unbind(-1)
        crops = self.volume[z, y, x].float()[:, None] / 255
        # Centres of the output pixels in the crop: half-pixel convention, mirrored by flips.
        out = (torch.arange(F, device=self.device) + 0.5) / F
        flip = draw(B, 2) < 0.5
        where = torch.where(flip[..., None], 1 - out, out) * side[:, None, None]
        where = where.clamp_min(0.5).minimum(side[:, None, None] - 0.5) * (2 / F) - 1
        rows, cols = where[:, 0, :, None].expand(B, F, F), where[:, 1, None, :].expand(B, F, F)
        turn = (draw(B) < 0.5)[:, None, None]
        rows, cols = torch.where(turn, rows.transpose(1, 2), rows), torch.where(turn, cols.transpose(1, 2), cols)
        return functional.grid_sample(crops, torch.stack([cols, rows], -1), align_corners=False)[:, 0]

    def step(self):
        """Take one optimiser step; return the loss, on the device."""
        N = (self.config.model.fov // self.config.model.patch_size) ** 2
        images = self._cut()
        order = torch.rand(len(images), N, device=self.device).argsort(dim=1)
        with self.cast:
            loss, index = self._loss(self.teacher, images, order)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            # The teacher is updated for both methods, as in this project's step.
            torch._foreach_lerp_(*self._average, 1 - self.config.teacher.momentum)
            if index is not None:
                self.usage.scatter_add_(0, index, torch.ones_like(index, dtype=torch.float32))
        return loss.detach()

    @torch.no_grad()
    def encode(self, images):
        """Return the tokens of unmasked fields of view `(B, F, F)`, without the cls token."""
        B, F, _ = images.shape
        p = self.network.patch
        patches = images.reshape(B, F // p, p, F // p, p).transpose(2, 3).reshape(B, (F // p) ** 2, p * p)
        with self.cast:
            return self._encode(patches)[:, -patches.shape[1] :]

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Labeller:
    """Labels slices across z at a stride: averages scores on the slice's token grid and expands C score maps.

    `weights_CxD` and `offset_C` are the linear scores of `Centres.linear`; `edge` are the weights of a field of view's
    token rows. As in this project, only scores are expanded.
    """

    def __init__(self, step, weights_CxD, offset_C, edge, stride, batch):
        model = step.config.model
        self.step, self.stride, self.batch = step, stride, batch
        self.fov, self.patch = model.fov, model.patch_size
        self.weights, self.offset = (torch.tensor(a, device=step.device) for a in (weights_CxD, offset_C))
        edge = torch.tensor(edge, device=step.device)
        self.edge = edge[:, None] * edge

    def _origins(self, length):
        padded = max(-(-length // self.patch) * self.patch, self.fov)
        return sorted({*range(0, padded - self.fov + 1, self.stride), padded - self.fov}), padded

    @torch.no_grad()
    def label(self, raw_SxHxW):
        """Label uint8 slices: uint8 labels of their shape; both NumPy."""
        images = torch.from_numpy(np.ascontiguousarray(raw_SxHxW)).to(self.step.device).float() / 255
        S, H, W = images.shape
        (rows, height), (cols, width) = self._origins(H), self._origins(W)
        images = functional.pad(images[:, None], (0, width - W, 0, height - H), "reflect")[:, 0]
        F, p, g = self.fov, self.patch, self.fov // self.patch
        fovs = torch.stack([images[:, r : r + F, c : c + F] for r in rows for c in cols], 1).reshape(-1, F, F)
        scores = []
        for i in range(0, len(fovs), self.batch):
            part = fovs[i : i + self.batch]
            full = functional.pad(part, (0, 0, 0, 0, 0, self.batch - len(part)))  # one compiled shape
            tokens = self.step.encode(full)[: len(part)].float()
            scores.append(functional.linear(tokens, self.weights, self.offset))
        scores = torch.cat(scores).reshape(S, len(rows), len(cols), g, g, -1) * self.edge[..., None]
        total = scores.new_zeros(S, height // p, width // p, scores.shape[-1])
        weight = scores.new_zeros(height // p, width // p, 1)
        for i, r in enumerate(rows):
            for j, c in enumerate(cols):
                at = slice(r // p, r // p + g), slice(c // p, c // p + g)
                total[:, *at] += scores[:, i, j]
                weight[at] += self.edge[..., None]
        maps = (total / weight).permute(0, 3, 1, 2)
        maps = functional.interpolate(maps, scale_factor=p, mode="bilinear", align_corners=False)
        return maps[:, :, :H, :W].argmin(dim=1).to(torch.uint8).cpu().numpy()


def flat(params, prefix=""):
    """Yield `(name, tensor)` of Flax parameters as PyTorch has them: kernels transposed, blocks in a list."""
    for name, value in params.items():
        place = f"{prefix}blocks.{int(name[5:])}." if name.startswith("block") else f"{prefix}{name}."
        place = prefix if name == "transformer" else place
        if isinstance(value, dict):
            yield from flat(value, place)
        else:
            value = np.asarray(value)
            leaf = {"kernel": "weight", "scale": "weight"}.get(name, name)
            yield prefix + leaf, torch.tensor(value.T.copy() if name == "kernel" else value)
