"""Training metrics between two log lines."""

import numpy as np


class Windows:
    """Cuts the metrics of all steps after `start` at the multiples of `every` and at `total`.

    Steps come in groups of any size; what a window tells does not depend on it.
    """

    def __init__(self, start, total, every):
        self._step, self._total, self._every = start, total, every
        self._parts = []

    def add(self, metrics, began, ended):
        """Yield `(step, scalars, time)` for each window that these steps close.

        `metrics` is a dict of `(n,)` arrays, those of the next n steps, which took from time
        `began` to `ended`.
        """
        count, taken = len(metrics["loss"]), 0
        while taken < count:
            border = min((self._step // self._every + 1) * self._every, self._total)
            more = min(border - self._step, count - taken)
            self._parts.append({k: v[taken : taken + more] for k, v in metrics.items()})
            self._step, taken = self._step + more, taken + more
            if self._step == border:
                yield border, self._close(), began + (ended - began) * taken / count

    def _close(self):
        rows = {k: np.concatenate([part[k] for part in self._parts]) for k in self._parts[0]}
        self._parts = []
        scalars = {k: float(np.mean(v)) for k, v in rows.items() if k.startswith(("loss", "grad", "accuracy"))}
        scalars["lr"] = float(rows["lr"][-1])
        ends = np.flatnonzero(rows.get("epoch_end", ()))
        if len(ends):  # codebook usage means something over a whole epoch only
            scalars["perplexity"] = float(rows["perplexity"][ends[-1]])
            scalars["dead_fraction"] = float(rows["dead_fraction"][ends[-1]])
        return scalars
