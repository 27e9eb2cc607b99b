"""The compiled programs of training: several optimiser steps in one dispatch, with the results of single ones."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from his4mae_jax.data.sampling.resident import ResidentSampler
from his4mae_jax.models.kernels.backend import targets_cpu
from his4mae_jax.training.devices.distributed import compiled_together
from his4mae_jax.training.devices.mesh import batch_sharding, replicated, stacked_sharding
from his4mae_jax.training.step.settings import StepSettings
from his4mae_jax.training.step.state import TrainState
from his4mae_jax.training.step.step import init_codebook, train_step


def dispatch_spans(start: int, total: int, per_dispatch: int, *, every: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yields `(first step, count)` of each dispatch.

    Args:
      start: first step of the run, or of what is left of it.
      total: steps of the whole run.
      per_dispatch: most steps in one dispatch.
      every: a dispatch ends at each multiple of this, where a checkpoint needs the state.
      stop: a dispatch ends before this step, where the codes are placed.
    """
    step = start
    while step < total:
        end = min(step + per_dispatch, total, (step // every + 1) * every)
        end = min(end, stop) if step < stop else end
        yield step, end - step
        step = end


class StepPrograms:
    """The jitted steps of one run over a mesh. All of them donate the state.

    What they take as `data` depends on where batches come from: the arrays of a `ResidentSampler`; from the host the
    batch of the step, where a dispatch has one step, or `per_dispatch` batches stacked along a first axis.

    On accelerators there is a program of its own before and after distillation begins, and for dispatches of exactly
    `per_dispatch` steps: where a program must find out whether to go on or which branch to take, a GPU's runtime asks
    the device and waits, once in each step. On CPUs that gains nothing, and one program serves all cases.
    """

    def __init__(
        self,
        settings: StepSettings,
        mesh: Mesh,
        *,
        per_dispatch: int = 1,
        resident: ResidentSampler | None = None,
        specialise: bool | None = None,
    ):
        """Nothing is traced yet.

        Args:
          settings: of the step.
          mesh: the devices.
          per_dispatch: most optimiser steps in one dispatch.
          resident: what cuts batches on the device; None where they come from the host.
          specialise: whether each case has a program of its own; None: on accelerators.
        """
        self._settings, self._mesh, self._per_dispatch = settings, mesh, per_dispatch
        self._specialise = not targets_cpu() if specialise is None else specialise
        self._batch_of, self._data_sharding = self._data_format(resident)
        # Numbers are put on the device once: as Python integers they would cross to it in every dispatch.
        self._on_device = functools.cache(lambda count: jax.device_put(np.int32(count), replicated(mesh)))
        self._programs: dict[Any, Callable] = {}

    def advance(self, state: TrainState, data: Any, count: int, ready: bool) -> tuple[TrainState, dict[str, jax.Array]]:
        """Takes `count` steps, at most `per_dispatch`.

        Args:
          state: donated.
          data: see the class.
          count: number of steps.
          ready: whether distillation has begun.

        Returns:
          `(state, metrics)`: the metrics of `train_step` as arrays `(per_dispatch,)`; entries from `count` on are 0.
        """
        return self._compiled_once(*self._case(count, ready))(state, data, self._on_device(count))

    def place_codebook(self, state: TrainState, data: Any) -> TrainState:
        """Places the codes by the batch of the state's step, see `init_codebook`; donates the state."""
        return self._compiled_once("place")(state, data)

    def compiles(self, count: int, ready: bool) -> bool:
        """Returns whether `advance` of this case will compile a program first."""
        return self._case(count, ready) not in self._programs

    def program(self, ready: bool | None = None, full: bool = False) -> Callable:
        """Returns the jitted function `(state, data, count) -> (state, metrics)` of one case, for its `lower`.

        Args:
          ready: whether distillation has begun; None: found out on the device.
          full: True for dispatches of exactly `per_dispatch` steps.
        """
        steps = self._single_step if self._per_dispatch == 1 else functools.partial(self._several_steps, full=full)
        everywhere = replicated(self._mesh)
        return jax.jit(
            functools.partial(steps, ready=ready),
            in_shardings=(everywhere, self._data_sharding, everywhere),
            out_shardings=everywhere,
            donate_argnums=0,
        )

    def _case(self, count: int, ready: bool) -> tuple[bool | None, bool]:
        return (bool(ready), count == self._per_dispatch) if self._specialise else (None, False)

    def _compiled_once(self, *case: Any) -> Callable:
        if case not in self._programs:
            if case == ("place",):
                everywhere = replicated(self._mesh)
                shardings = dict(in_shardings=(everywhere, self._data_sharding), out_shardings=everywhere)
                function = jax.jit(self._place, **shardings, donate_argnums=0)
            else:
                function = self.program(*case)
            self._programs[case] = compiled_together(function, f"step programs {case}")
        return self._programs[case]

    def _data_format(self, resident: ResidentSampler | None) -> tuple[Callable, jax.sharding.Sharding]:
        """`(function (data, index in the dispatch, step) -> raw batch, sharding of the data)`."""
        if resident is not None:
            return (lambda data, i, step: resident.batch(data, step)), replicated(self._mesh)
        if self._per_dispatch == 1:
            return (lambda data, i, step: data), batch_sharding(self._mesh)
        return (lambda data, i, step: jax.tree.map(lambda x: x[i], data)), stacked_sharding(self._mesh)

    def _one_step(self, state, data, i, ready):
        batch = self._batch_of(data, i, state.step)
        return train_step(state, batch, settings=self._settings, mesh=self._mesh, ready=ready)

    def _single_step(self, state, data, count, ready):
        state, metrics = self._one_step(state, data, 0, ready)
        return state, jax.tree.map(lambda x: x[None], metrics)

    def _several_steps(self, state, data, count, ready, full):
        # A loop of traced length: one compilation serves all counts, the shorter dispatches before checkpoints too.
        count = self._per_dispatch if full else count
        like = jax.eval_shape(functools.partial(self._one_step, ready=ready), state, data, 0)[1]
        empty = jax.tree.map(lambda x: jnp.zeros((self._per_dispatch, *x.shape), x.dtype), like)

        def body(i, carry):
            state, rows = carry
            state, metrics = self._one_step(state, data, i, ready)
            return state, jax.tree.map(lambda all, new: all.at[i].set(new), rows, metrics)

        return jax.lax.fori_loop(0, count, body, (state, empty))

    def _place(self, state, data):
        return init_codebook(state, self._batch_of(data, 0, state.step), settings=self._settings)
