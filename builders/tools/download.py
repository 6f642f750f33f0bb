"""Getting files over HTTP: the only place that knows `requests`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from builders.errors import IntegrityError, UnavailableError

OnBytes = Callable[[int], None]

#: What a dying connection may cost: a chunk that did not arrive whole is asked for again.
CHUNK = 1 << 16
#: Bytes; what is taken where the size is not pinned. Kubernetes' sources, the largest, have 0.3 GB.
LIMIT = 2 << 30
TIMEOUT = (15, 60)
ATTEMPTS = 4
RANGE_NOT_SATISFIABLE = 416
URL = re.compile(r"""\b[a-z][a-z0-9+.-]*://[^\s'"]+""", re.IGNORECASE)


def redacted(url: str) -> str:
    """`url` without user name, password and query, for messages and logs."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
        if "@" not in parts.path + parts.query + parts.fragment:  # a password out of its place
            return urlunsplit((parts.scheme, host, parts.path, "", ""))
    except ValueError:
        pass
    return "(an address that cannot be shown)"


def shown(place: str) -> str:
    """A place for a message: an address without what it could hold, a path as it is."""
    return redacted(place) if "://" in place else place


def scrubbed(text: str) -> str:
    """A text of somebody else's, each URL in it redacted."""
    return URL.sub(lambda match: redacted(match[0]), text)


def below(place: str, name: str) -> str:
    """The place of a file below a folder's, whose address may end in a query."""
    base, mark, query = place.partition("?") if "://" in place else (place, "", "")
    return f"{base.rstrip('/')}/{name}{mark}{query}"


def is_url(text: str) -> bool:
    """Whether this is a well-formed http(s) URL, whose password, if any, is where one belongs."""
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and "@" not in parts.path + parts.query
            and not parts.fragment
            and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        return False


class Downloader:
    """Fetches files with retries and resumption; honours proxy variables and custom CAs.

    `proxies` maps a scheme to a proxy URL and is used where the environment names none.
    """

    def __init__(self, proxies: Mapping[str, str] | None = None) -> None:
        self._session = requests.Session()
        retry = Retry(
            total=ATTEMPTS,
            connect=1,
            other=0,  # a refused certificate, a proxy that says no: time mends neither
            backoff_factor=0.5,
            status_forcelist=(429, 500, 502, 503, 504),
            raise_on_status=False,
        )
        adapter = HTTPAdapter(max_retries=retry, pool_maxsize=8)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._session.proxies.update(proxies or {})
        self._session.headers["User-Agent"] = "nokmem"
        self._session.headers["Accept-Encoding"] = "identity"

    def __enter__(self) -> Downloader:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def answers(self, url: str) -> str | None:
        """None where `url` answers with success within seconds, else the reason why not."""
        try:
            with requests.Session() as once:  # without the retries
                once.proxies.update(self._session.proxies)
                with once.get(url, timeout=(5, 10), stream=True) as response:
                    return None if response.ok else f"HTTP {response.status_code}"
        except requests.RequestException as error:
            return reason(error)

    def read(self, url: str, limit: int) -> bytes:
        """The body of `url`, as `fetch` gives it, refused where it is longer than `limit` bytes."""
        body = bytearray()
        self.fetch(url, body.extend, limit=limit)
        return bytes(body)

    def fetch(
        self,
        url: str,
        write: Callable[[bytes], object],
        *,
        size: int | None = None,
        limit: int = LIMIT,
        on_bytes: OnBytes | None = None,
    ) -> None:
        """Give the body of `url` to `write`: `size` bytes, or, where that is not known, no more
        than `limit`. What a connection leaves out when it dies is asked for again."""
        done = 0
        limit = limit if size is None else size
        problem: requests.RequestException | None = None
        for attempt in range(ATTEMPTS + 1):
            whole = False
            headers = {"Range": f"bytes={done}-"} if done else {}
            answered = False
            try:
                with self._session.get(
                    url, timeout=TIMEOUT, stream=True, headers=headers
                ) as response:
                    answered = True
                    if response.status_code == RANGE_NOT_SATISFIABLE and done:
                        return  # it was whole when the connection died
                    _raise_for(response, url)
                    skip = done if response.status_code != 206 else 0
                    for chunk in response.iter_content(CHUNK):
                        if skip:
                            chunk, skip = chunk[skip:], max(0, skip - len(chunk))
                            if not chunk:
                                continue
                        write(chunk)
                        done += len(chunk)
                        if on_bytes:
                            on_bytes(len(chunk))
                        if done > limit:
                            raise IntegrityError(
                                f"longer than the pinned {limit} bytes"
                                if size is not None
                                else f"longer than {limit} bytes, the most that is taken",
                                place=redacted(url),
                                next_step="what is there is not what was meant: try another place",
                            )
                    whole = True
            except requests.RequestException as error:
                if not answered:  # the session has asked several times already
                    raise _unavailable(url, error) from error
                problem = error
            if whole if size is None else done >= size:
                return
            if attempt < ATTEMPTS:
                time.sleep(0.5 * 2**attempt)
        raise UnavailableError(
            f"the connection ended after {done} of {size or 'unknown'} bytes, {ATTEMPTS + 1} times",
            place=redacted(url),
            next_step="check the mirror or the proxy, then run the same command again",
        ) from problem


def _raise_for(response: requests.Response, url: str) -> None:
    if not response.ok:
        raise UnavailableError(
            f"HTTP {response.status_code} {response.reason}",
            place=redacted(url),
            next_step="check that the mirror holds this file",
        )


def _unavailable(url: str, error: requests.RequestException) -> UnavailableError:
    return UnavailableError(
        f"no answer: {reason(error)}",
        place=redacted(url),
        next_step="check the network, the mirror and the proxy variables, then run again",
    )


def reason(error: requests.RequestException) -> str:
    """A short cause without the URL, which could hold a password."""
    if isinstance(error, requests.exceptions.SSLError):
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            untimely = re.search("is not yet valid|has expired", str(error))
            by_clock = f": by this machine's clock it {untimely[0]}" if untimely else ""
            return f"the certificate was not accepted{by_clock}"
        return "the TLS connection failed"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy refused or did not answer"
    if isinstance(error, requests.exceptions.InvalidSchema):
        return "only http and https are spoken here"
    if isinstance(error, requests.Timeout):
        return "timed out"
    if isinstance(error, requests.ConnectionError):
        return "connection failed"
    return type(error).__name__
