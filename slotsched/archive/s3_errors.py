"""What a failed S3 request means, and what to check: the one place where botocore's errors become ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from botocore import exceptions
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from slotsched.errors import ArchiveError, ObjectMissing

_NO_OBJECT = frozenset({"NoSuchKey", "404"})  # HEAD has no body, so botocore uses the status as the code
_REGION = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"})
_UNREACHED = (
    exceptions.EndpointConnectionError,
    exceptions.ConnectTimeoutError,
    exceptions.ProxyConnectionError,
)
_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.ProfileNotFound,
    exceptions.TokenRetrievalError,
    exceptions.UnauthorizedSSOTokenError,
)


# ValueError: an endpoint that is no URL. OSError: a socket's error that botocore let through.
_FAILURES = (ClientError, BotoCoreError, ResponseParserError, ValueError, OSError)


@contextlib.contextmanager
def translated(*, place: str, operation: str, endpoint: str, who: str) -> Iterator[None]:
    """Raise what the body's request on `place` (`s3://bucket/prefix`) failed with as an ArchiveError.

    operation: S3's name of it (`PutObject`); endpoint: where it went; who: where the credentials come from.
    """
    try:
        yield
    except _FAILURES as error:
        if isinstance(error, ClientError):
            raise _refusal(error, place, operation, endpoint, who) from error
        raise ArchiveError(f"{place}: {operation}: {_failure(error, endpoint, who)}") from error


def _failure(error: Exception, endpoint: str, who: str) -> str:
    """What happened when there was no usable answer at all."""
    if isinstance(error, _CREDENTIALS):
        return f"{_brief(error)} -> check {who}, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if isinstance(error, exceptions.SSLError):
        return f"TLS to {endpoint} failed ({_brief(error)}) -> check s3_endpoint and AWS_CA_BUNDLE"
    if isinstance(error, _UNREACHED):
        return f"cannot connect to {endpoint} -> check s3_endpoint, and that the server is up"
    if isinstance(error, exceptions.ReadTimeoutError):
        return f"no answer from {endpoint} in time -> check that the server is healthy"
    if isinstance(error, (exceptions.HTTPClientError, exceptions.IncompleteReadError)):
        return f"the connection to {endpoint} broke ({_brief(error)}) -> check that the server is healthy"
    if isinstance(error, ResponseParserError):
        return f"{endpoint} did not answer as S3 does ({_brief(error)}) -> check s3_endpoint"
    return f"{_brief(error)} -> check log_store and the s3_ settings"


def _refusal(error: ClientError, place: str, operation: str, endpoint: str, who: str) -> ArchiveError:
    detail = error.response.get("Error", {})
    code = str(detail.get("Code", "?"))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    head = f"{place}: {status} on {operation}"
    if code in _NO_OBJECT and operation in ("GetObject", "HeadObject"):
        return ObjectMissing(f"{place}: no such object")
    if code == "NoSuchBucket":
        return ArchiveError(f"{head}: no such bucket -> create it, or check log_store")
    if code == "RequestTimeTooSkewed":
        return ArchiveError(f"{head}: this machine's clock is off -> check its time service")
    if code in _REGION:
        return ArchiveError(f"{head} ({code}): the bucket is in another region -> check s3_region")
    if status in (401, 403):
        named = "" if code in ("403", "401", "AccessDenied") else f" ({code})"
        return ArchiveError(f"{head}{named} -> check {who}")
    message = str(detail.get("Message", "")).strip().rstrip(".")
    if status >= 500:
        return ArchiveError(f"{head} ({code}): the server is in trouble -> check {endpoint}")
    return ArchiveError(f"{head} ({code}{': ' + message if message else ''}) -> check the s3_ settings")


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
