"""What ends a run with one line: input that is at fault, and a device without memory left, with the remedy."""


class UserError(Exception):
    """Bad input: one line that names the file or key and says what to do.

    `main` prints the message alone, without a traceback, and exits with status 2.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))


def friendly_memory_error(error):
    """One line for a device without memory left and what to change, from JAX's exception; None for any other."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        return None
    what = str(error).splitlines()[0].split("RESOURCE_EXHAUSTED:")[-1].strip()
    return (
        f"the device's memory is too small ({what}); for training, set --config.train.microbatch to a part of the "
        "batch, such as 32 (the same steps, with less memory), or --config.data.sampler=host; for segmentation, lower "
        "--config.segment.batch_fovs or --config.segment.tile. --mode=inspect says what a run takes"
    )
