"""A bucket of S3, or of whatever speaks as S3 does. The only place that knows `botocore`."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore import exceptions
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    SSLError,
)

from builders.errors import PublishError, UsageError
from builders.tools.targets import Body, Item, OnBytes, PassingError

ENDPOINTS = ("NOKMEM_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
CREDENTIALS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where it is one, AWS_SESSION_TOKEN"
CHUNK = 1 << 20


class S3:
    def __init__(self, bucket: str, prefix: str, environment: Mapping[str, str]) -> None:
        self.place = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket, self._prefix = bucket, prefix
        self._endpoint = next((environment[n] for n in ENDPOINTS if environment.get(n)), None)
        self._region = next((environment[n] for n in REGIONS if environment.get(n)), "us-east-1")
        if self._endpoint and "@" in self._endpoint:
            raise UsageError(
                "the endpoint holds a login; it is not shown",
                place=" or ".join(ENDPOINTS),
                next_step=f"credentials are {CREDENTIALS}",
            )

    @cached_property
    def _client(self) -> Any:
        """A client that has seen the bucket."""
        style = {"addressing_style": "path"} if self._endpoint else {}
        config = Config(
            s3=style, connect_timeout=15, read_timeout=120, retries={"total_max_attempts": 1}
        )
        client = botocore.session.get_session().create_client(
            "s3", region_name=self._region, endpoint_url=self._endpoint, config=config
        )
        client.head_bucket(Bucket=self._bucket)
        return client

    def find(self, item: Item) -> str | None:
        with self._said():
            client, where = self._client, self._where(item)
            try:
                head = client.head_object(**where, ChecksumMode="ENABLED")
            except ClientError as error:
                if _status(error) == 404:
                    return None
                raise
            checksum = head.get("ChecksumSHA256", "-")
            if "-" not in checksum:  # of the whole, not of its parts
                return base64.b64decode(checksum).hex()
            digest = hashlib.sha256()
            with closing(client.get_object(**where)["Body"]) as body:
                for chunk in body.iter_chunks(CHUNK):
                    digest.update(chunk)
            return digest.hexdigest()

    def put(self, item: Item, on_bytes: OnBytes) -> None:
        """In one request, of which S3 takes in nothing unless all of it came with this hash."""
        checksum = base64.b64encode(bytes.fromhex(item.sha256)).decode()
        said = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": checksum, **self._where(item)}
        with self._said(), Body(item.path, on_bytes) as body:
            try:
                condition = {} if item.index else {"IfNoneMatch": "*"}
                self._client.put_object(**said, **condition, Body=body)
            except ClientError as error:
                if _status(error) != 501:  # some stores have no such condition
                    raise
                body.seek(0)
                self._client.put_object(**said, Body=body)

    def finish(self, items: list[Item]) -> bool:  # noqa: ARG002 -- each was seen once it was there
        return False

    def close(self) -> None:
        if "_client" in vars(self):
            self._client.close()

    def _where(self, item: Item) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}/{item.place}".lstrip("/")}

    @contextmanager
    def _said(self) -> Iterator[None]:
        """botocore's errors as ours. Of an answer no more than its code is shown."""
        try:
            yield
        except ClientError as error:
            raise self._refused(_status(error), error.response["Error"]["Code"]) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise PublishError(
                "there are no credentials", place=self.place, next_step=f"give {CREDENTIALS}"
            ) from error
        except (SSLError, ProxyConnectionError) as error:
            tls = isinstance(error, SSLError)
            raise PublishError(
                f"no answer: {'the certificate or TLS' if tls else 'the proxy'} failed",
                place=self._shown,
                next_step="check the endpoint; AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE names a CA",
            ) from error
        except (HTTPClientError, exceptions.ConnectionError) as error:
            raise PassingError(
                f"no answer: {type(error).__name__}",
                place=self._shown,
                next_step="check the endpoint and the network, then run the same command again",
            ) from error
        except (BotoCoreError, ValueError) as error:
            raise PublishError(
                f"S3 cannot be asked: {type(error).__name__}",
                place=self.place,
                next_step=f"check {', '.join(ENDPOINTS)} and the AWS_ variables",
            ) from error

    def _refused(self, status: int, code: str) -> PublishError:
        said = f"HTTP {status}" if code == str(status) else f"HTTP {status} {code}"
        if status in (429, 500, 502, 503, 504) or code == "SlowDown":
            return PassingError(said, place=self.place, next_step="run the command again later")
        facts = {
            404: ("there is no such bucket", "make it, or mend its name"),
            403: ("these credentials are not accepted, or may not do this", f"see {CREDENTIALS}"),
            401: ("these credentials are not accepted", f"see {CREDENTIALS}"),
            412: ("somebody else has put that file just now", "run the same command again"),
            301: ("the bucket is in another region", f"name it in {REGIONS[0]}"),
        }
        fact, advice = facts.get(status, ("the target refuses this", "look at what it allows"))
        return PublishError(f"{fact}: {said}", place=self.place, next_step=advice)

    @property
    def _shown(self) -> str:
        if not self._endpoint:
            return self.place
        parts = urlsplit(self._endpoint)
        return f"{self.place} at {parts.scheme}://{parts.netloc}"


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
