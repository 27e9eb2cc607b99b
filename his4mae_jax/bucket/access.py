"""How a bucket is reached: one endpoint and one set of credentials, for images, labels and workdirs.

The environment variables are those of `data.stores.location`. Two libraries read them here: TensorStore for arrays,
obstore for all other files. Public images are read without a signature unless HIS4MAE_S3_CREDENTIALS says otherwise;
requests to a bucket that holds a workdir are signed, as it is written to.
"""

import datetime
import functools
import json
import os
import re
import types
from collections.abc import Mapping
from typing import Any

from his4mae_jax.errors import UserError

CREDENTIALS = ("anonymous", "default", "environment", "profile")
S3_ENDPOINTS = ("HIS4MAE_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
GCS_ENDPOINT = "TENSORSTORE_GCS_HTTP_URL"
RETRIES, RETRY_SECONDS = 8, 150  # of one request to a store that fails, with pauses that double from 0.1 s to 15 s
_signed: set[str] = set()  # S3 buckets with a workdir


def sign(bucket: str) -> None:
    """Has requests of this process to an S3 bucket signed, where the environment does not say how."""
    _signed.add(bucket)


def s3_spec(bucket: str, query: Mapping[str, str], place: str) -> dict[str, Any]:
    """TensorStore's specification of an S3 bucket.

    Args:
      bucket: its name.
      query: `endpoint` and `region` of a URL, which go before the environment.
      place: the URL, for messages.

    Raises:
      UserError: an unknown option, or invalid environment variables.
    """
    unknown = set(query) - {"endpoint", "region"}
    if unknown:
        raise UserError(f"{place}: unknown option {sorted(unknown)[0]!r} of an S3 URL; there are endpoint and region")
    environ = os.environ.get
    kind = environ("HIS4MAE_S3_CREDENTIALS") or ("default" if bucket in _signed else "anonymous")
    if kind not in CREDENTIALS:
        raise UserError(f"{place}: HIS4MAE_S3_CREDENTIALS is {kind!r}; set it to one of {', '.join(CREDENTIALS)}")
    store = {"driver": "s3", "bucket": bucket, "aws_credentials": {"type": kind}}
    endpoint = query.get("endpoint") or next((environ(v) for v in S3_ENDPOINTS if environ(v)), None)
    region = query.get("region") or environ("AWS_REGION") or environ("AWS_DEFAULT_REGION")
    if endpoint:
        if not re.match(r"https?://[^/]", endpoint):
            raise UserError(f"{place}: the S3 endpoint {endpoint!r} is no http:// or https:// address; correct it")
        store |= {"endpoint": endpoint.rstrip("/"), "aws_region": region or "us-east-1"}
    return store


def array_spec(scheme: str, bucket: str) -> dict[str, Any]:
    """TensorStore's specification of a bucket of `gs` or `s3` with a workdir."""
    if scheme == "gs":
        return {"driver": "gcs", "bucket": bucket}
    return s3_spec(bucket, {}, f"s3://{bucket}")


def obstore() -> types.ModuleType:
    """The package obstore.

    Raises:
      UserError: it is not installed.
    """
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise UserError(
            f"a workdir in a bucket needs the package obstore ({error}): pip install 'his4mae_jax[bucket]'"
        ) from error
    return obstore


@functools.cache
def store(scheme: str, bucket: str) -> Any:
    """The obstore store of a bucket of `gs` or `s3`, with retries; nothing is read.

    Raises:
      UserError: obstore is not installed, or an environment variable is invalid.
    """
    stores = obstore().store
    retry = {"max_retries": RETRIES, "retry_timeout": datetime.timedelta(seconds=RETRY_SECONDS)}
    seconds = os.environ.get("HIS4MAE_STALL_SECONDS", "30")
    options: dict[str, Any] = {"connect_timeout": f"{seconds} seconds", "timeout": "300 seconds", "allow_http": True}
    if scheme == "gs":
        address = os.environ.get(GCS_ENDPOINT)
        # A stand-in on another address knows no Google accounts.
        key = {
            "gcs_base_url": (address or "").rstrip("/"),
            "disable_oauth": True,
            "client_email": "",
            "private_key": "",
        }
        more = {"service_account_key": json.dumps({**key, "private_key_id": ""})} if address else {}
        return stores.GCSStore(bucket, client_options=options, retry_config=retry, **more)
    spec = s3_spec(bucket, {}, f"s3://{bucket}")
    more = {key: spec[own] for key, own in (("endpoint", "endpoint"), ("region", "aws_region")) if own in spec}
    return stores.S3Store(
        bucket, client_options=options, retry_config=retry, **more, **_credentials(spec["aws_credentials"]["type"])
    )


def _credentials(kind: str) -> dict[str, Any]:
    """Arguments of obstore for one of `CREDENTIALS`."""
    if kind == "anonymous":
        return {"skip_signature": True}
    if kind == "environment":
        return {}  # obstore reads the same variables
    try:  # the same chain as TensorStore's: environment, profiles and single sign-on, roles of pods and machines
        from boto3.session import Session
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return {}  # environment, web identity, and roles of pods and machines
    session = Session(region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"))
    if session.get_credentials() is None:
        raise UserError(
            "no AWS credentials are found for a workdir in a bucket; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE, or give the machine a role (HIS4MAE_S3_CREDENTIALS=anonymous sends none)"
        )
    return {"credential_provider": Boto3CredentialProvider(session)}
