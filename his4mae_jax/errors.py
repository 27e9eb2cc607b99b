"""Errors that end a run with one line: bad input, and a device that is out of memory; secrets are masked in texts."""

import re

_PASSWORD = re.compile(r"(?<=://)[^/\s@'\"]+(?=@)")
_SECRET = re.compile(
    r"([?&;]|%3F|%26)([\w.%-]*(?:sig|signature|token|secret|password|passwd|pwd|credential|accesskey|access_key|"
    r"accesskeyid|api_key|apikey|auth|authorization|key))(=|%3D)(?!%26)[^&;#,\s'\"\[\]\)|]+",
    re.IGNORECASE,
)


def mask(text: object) -> str:
    """A text in which passwords, and signatures and keys in queries, of URLs are replaced by ***.

    For whatever is shown to people or kept for them: a signed URL gives access to whoever reads it.
    """
    return _SECRET.sub(r"\1\2\3***", _PASSWORD.sub("***", str(text)))


class UserError(Exception):
    """Bad input: one line that names the file or key and says what to do.

    Secrets in URLs are masked. The command prints the message alone, without a traceback, and exits with status 2.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(mask(message).split()))


Error = UserError  # its name in the library: `his4mae_jax.Error`


def friendly_memory_error(error: BaseException) -> str | None:
    """One line for a device that is out of memory, with the settings that help.

    Args:
      error: as JAX raised it.

    Returns:
      The line; None for any other error.
    """
    if "RESOURCE_EXHAUSTED" not in str(error):
        return None
    reason = str(error).splitlines()[0].split("RESOURCE_EXHAUSTED:")[-1].strip()
    return (
        f"the device's memory is too small ({reason}); for training, set config key train.microbatch to a part of the "
        'batch, such as 32 (the same steps, with less memory), or data.sampler to "host"; for segmentation, lower '
        "segment.batch_fovs or segment.tile. `his4mae inspect` estimates what a run takes"
    )
