"""Errors that end a run with one line: bad input, a device that is missing or out of memory; secrets are masked."""

import os
import re
from collections.abc import Mapping

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


def friendly_device_error(error: BaseException, environ: Mapping[str, str] = os.environ) -> str | None:
    """One line for devices that JAX is told to use and does not find.

    Args:
      error: as JAX raised it, on its first use.
      environ: environment variables.

    Returns:
      The line; None for any other error.
    """
    text = " ".join(str(error).split())
    wanted = environ.get("JAX_PLATFORMS", "")
    # Without a plugin for the platform, JAX ends in an assertion that says nothing.
    if not (text.startswith("Unable to initialize backend") or _in_backends(error) and wanted):
        return None
    reason = re.sub(r"^Unable to initialize backend '\w*': ", "", text)
    reason = re.split(r" \((?:set JAX_PLATFORMS|you may need)", reason)[0]  # JAX's own remedies
    reason = f" ({reason[:200]})" if reason else ""
    kind = wanted.partition(",")[0].lower()
    told = f"JAX is told to use JAX_PLATFORMS={wanted} and" if wanted else "JAX"
    remedy = {
        "tpu": "install JAX for TPUs, pip install 'his4mae_jax[tpu]', and check that this host has one, or",
        "cpu": "reinstall jax, or",
    }.get(kind, "check that nvidia-smi lists a GPU and install JAX for it, pip install 'his4mae_jax[cuda]', or")
    return f"{told} finds no such device{reason}; {remedy} set JAX_PLATFORMS=cpu, or unset it to use what there is"


def _in_backends(error: BaseException) -> bool:
    """Whether an assertion failed where JAX looks for its devices."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return isinstance(error, AssertionError) and trace is not None and "xla_bridge" in trace.tb_frame.f_code.co_filename
