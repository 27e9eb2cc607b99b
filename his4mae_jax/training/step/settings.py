"""What a training step needs of a run's configuration, as one frozen dataclass."""

import dataclasses
from typing import Any, Self

import ml_collections

from his4mae_jax.config import steps_per_epoch, total_steps
from his4mae_jax.pretext.flop import flop_per_image
from his4mae_jax.pretext.methods import METHODS, WAITING


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its schedule (Table 2).

    Attributes:
      learning_rate: peak of the schedule.
      codebook_learning_rate: peak for the codebook's group; None where running means move the codes instead.
      codebook_optimizer: "adam" or "sgd" for the codebook's group.
      min_learning_rate: at the last step.
      warmup_steps: of a linear rise from 0.
      total_steps: of the whole run.
      betas: Adam's decay rates.
      weight_decay: on matrices only.
    """

    learning_rate: float
    codebook_learning_rate: float | None
    codebook_optimizer: str
    min_learning_rate: float
    warmup_steps: int
    total_steps: int
    betas: tuple[float, float]
    weight_decay: float


@dataclasses.dataclass(frozen=True)
class CodebookSettings:
    """How the codes are placed and moved outside the gradient.

    Attributes:
      start_step: before this step the codes are placed among the teacher's tokens, and distillation begins.
      init_iterations: k-means iterations of that; 0 takes samples of the tokens.
      ema_decay: of running means that move the codes; None where the gradient of equation 3 moves them.
      update_isolated: whether equation 6 is applied at the end of each epoch.
      gamma: weight of the surrounding code in equation 6.
      isolated_below: usage, relative to the mean, below which a code is isolated.
      steps_per_epoch: over which usage is counted.
    """

    start_step: int
    init_iterations: int
    ema_decay: float | None
    update_isolated: bool
    gamma: float
    isolated_below: float
    steps_per_epoch: int


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """Everything that the state and the step depend on, besides data and devices.

    Attributes:
      seed: of the run; all randomness derives from it and the step number.
      method: name of the pretext task, a key of `METHODS`.
      models: the task's Flax modules (`method.build`), which hold no parameters.
      loss: settings of the task's `prepare` and `loss` (`method.settings`), a frozen dataclass.
      batch_size: fields of view in a step, over all devices.
      microbatch: most fields of view that a device takes at once; 0 chooses by the device.
      fov: pixels a side of a field of view.
      flop: of a step of the whole batch.
      waits: whether the method has terms that begin at `codebook.start_step`, with a codebook or without.
      teacher_momentum: of the teacher's EMA, at the first and at the last step.
      teacher_every: steps from one move of the teacher to the next.
      optimizer: see `OptimizerSettings`.
      codebook: see `CodebookSettings`.
    """

    seed: int
    method: str
    models: Any
    loss: Any
    batch_size: int
    microbatch: int
    fov: int
    flop: int
    waits: bool
    teacher_momentum: tuple[float, float]
    teacher_every: int
    optimizer: OptimizerSettings
    codebook: CodebookSettings

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict) -> Self:
        """Reads the settings from a run's configuration."""
        c, t, method, steps = config.codebook, config.train, METHODS[config.method], total_steps(config)
        by_gradient = c.learning == "gradient"
        return cls(
            seed=config.seed,
            method=config.method,
            models=method.build(config),
            loss=method.settings(config),
            batch_size=t.batch_size,
            microbatch=t.microbatch,
            fov=config.model.fov,
            flop=t.batch_size * flop_per_image(config)["step"],
            waits=config.method in WAITING,
            teacher_momentum=(config.teacher.momentum, config.teacher.momentum_end),
            teacher_every=steps_per_epoch(config) if config.teacher.moves == "epoch" else 1,
            optimizer=OptimizerSettings(
                learning_rate=t.lr,
                codebook_learning_rate=c.lr if by_gradient else None,
                codebook_optimizer=c.optimizer,
                min_learning_rate=t.min_lr,
                warmup_steps=int(t.warmup * steps),
                total_steps=steps,
                betas=tuple(t.betas),
                weight_decay=t.weight_decay,
            ),
            codebook=CodebookSettings(
                start_step=max(1, int(c.start * steps)),
                init_iterations=c.init_iterations if c.init == "kmeans" else 0,
                ema_decay=None if by_gradient else c.ema_decay,
                update_isolated=c.update_isolated,
                gamma=c.gamma,
                isolated_below=c.isolated_below,
                steps_per_epoch=steps_per_epoch(config),
            ),
        )
