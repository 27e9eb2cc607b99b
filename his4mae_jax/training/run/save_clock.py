"""Checkpoints by time, beside those by steps."""

from time import monotonic

from his4mae_jax.training.devices.distributed import Request


class SaveClock:
    """When a checkpoint is due by time (`train.checkpoint_minutes`), so that slow runs lose little when killed."""

    def __init__(self, minutes: float):
        """The first is due `minutes` from now; 0: none ever is."""
        self._seconds, self._saved_at, self._just_saved = minutes * 60, monotonic(), False

    def request(self) -> Request:
        """What this process asks for."""
        due = self._seconds and monotonic() - self._saved_at >= self._seconds
        return Request.SAVE if due else Request.NOTHING

    def grants(self, agreed: Request) -> bool:
        """Whether a checkpoint is saved now, the same on all processes; to be called once a dispatch at most.

        Right after a checkpoint the answer may be to a request from before it.
        """
        late, self._just_saved = self._just_saved, False
        return agreed == Request.SAVE and not late

    def saved(self) -> None:
        """Notes that a checkpoint is being saved."""
        self._saved_at, self._just_saved = monotonic(), True
