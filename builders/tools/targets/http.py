"""Requests that carry files and credentials; no message shows the latter. Knows `requests`."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from builders.errors import PublishError, UsageError
from builders.tools.download import reason, redacted
from builders.tools.targets import Body, OnBytes, PassingError

TIMEOUT = (15, 120)
CHUNK = 1 << 20
PASSING = (408, 425, 429, 500, 502, 503, 504)
LOCAL = ("localhost", "127.0.0.1", "::1")
USER, PASSWORD, TOKEN = (f"NOKMEM_PUBLISH_{name}" for name in ("USER", "PASSWORD", "TOKEN"))
Answer = requests.Response


def bearer(environment: Mapping[str, str], name: str) -> str:
    """The Authorization that a variable with a token gives, "" without; UsageError if it cannot be
    one."""
    token = environment.get(name, "").strip()
    if not all("!" <= sign <= "~" for sign in token):
        raise UsageError(
            "this is not a token: it has blanks or signs beyond ASCII",
            place=name,
            next_step="give the variable the token alone",
        )
    return f"Bearer {token}" if token else ""


def basic(environment: Mapping[str, str]) -> str:
    """The Authorization by user and password, "" where no user is named."""
    user, password = environment.get(USER, ""), environment.get(PASSWORD, "")
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    return f"Basic {login}" if user else ""


class Http:
    """Asks with one Authorization, which may change; `variables` are where a user gives it."""

    def __init__(self, authorization: str, variables: str) -> None:
        self.authorization = authorization
        self._variables = variables
        self._session = requests.Session()
        self._session.auth = self._authorize  # in place of whatever a .netrc says
        self._session.headers.update({"User-Agent": "nokmem", "Accept-Encoding": "identity"})

    def close(self) -> None:
        self._session.close()

    def ask(
        self,
        method: str,
        url: str,
        body: Path | bytes | None = None,
        *,
        also: tuple[int, ...] = (),
        headers: Mapping[str, str] | None = None,
        on_bytes: OnBytes = lambda _: None,
    ) -> Answer:
        """The answer, its body still to be read; PublishError where it is neither success nor of
        the statuses in `also`, PassingError where the next one may be."""
        reading = method in ("GET", "HEAD")
        carried: AbstractContextManager[Body | bytes | None] = (
            Body(body, on_bytes) if isinstance(body, Path) else nullcontext(body)
        )
        try:
            with carried as data:
                answer = self._session.request(
                    method, url, data=data, headers=headers, timeout=TIMEOUT,
                    stream=True, allow_redirects=reading,
                )  # fmt: skip
                if not reading:
                    _ = answer.content
        except requests.RequestException as error:
            raise _failed(url, error) from error
        if answer.status_code not in also and not 200 <= answer.status_code < 300:
            answer.close()
            raise self._refused(answer.status_code, answer.reason, url)
        return answer

    def sha256(self, url: str, headers: Mapping[str, str] | None = None) -> str | None:
        """The hash of what is there, in constant memory; None where nothing is."""
        digest = hashlib.sha256()
        with self.ask("GET", url, headers=headers, also=(404,)) as answer:
            if answer.status_code == 404:
                return None
            try:
                for chunk in answer.iter_content(CHUNK):
                    digest.update(chunk)
            except requests.RequestException as error:
                raise _failed(url, error) from error
        return digest.hexdigest()

    def read(self, answer: Answer) -> bytes:
        """All of a short answer."""
        try:
            with answer:
                return answer.content
        except requests.RequestException as error:
            raise _failed(answer.url, error) from error

    def json(self, answer: Answer) -> Any:
        """What a short answer says; PublishError where that is no JSON."""
        try:
            return json.loads(self.read(answer))
        except ValueError as error:
            raise PublishError(
                "the answer is no JSON",
                place=redacted(answer.url),
                next_step="check that this is the address of such a service, and the proxy",
            ) from error

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.authorization:
            parts = urlsplit(request.url or "")
            if parts.scheme != "https" and parts.hostname not in LOCAL:
                raise PublishError(
                    "credentials are sent over https alone",
                    place=redacted(request.url or ""),
                    next_step=f"write https://, or unset {self._variables}",
                )
            request.headers["Authorization"] = self.authorization
        return request

    def _refused(self, status: int, words: str, url: str) -> PublishError:
        place, fact = redacted(url), f"HTTP {status} {words}".strip()
        if status in PASSING:
            return PassingError(fact, place=place, next_step="run the same command again later")
        if status == 401:
            known = "these credentials are not accepted" if self.authorization else "it asks who"
            fact, advice = f"{known}: {fact}", f"give {self._variables}"
        elif status == 403:
            who = "these credentials" if self.authorization else "without credentials one"
            fact, advice = f"{who} may not do this: {fact}", f"give others: {self._variables}"
        elif status == 412:
            fact = f"somebody else has put that file just now: {fact}"
            advice = "run the same command again"
        elif 300 <= status < 400:
            advice = "it has another address: name that one"
        else:
            advice = "look at the address, and at what the target allows"
        return PublishError(fact, place=place, next_step=advice)


def _failed(url: str, error: requests.RequestException) -> PublishError:
    lasting = (
        requests.exceptions.SSLError, requests.exceptions.ProxyError,
        requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL,
        requests.exceptions.TooManyRedirects,
    )  # fmt: skip
    kind = PublishError if isinstance(error, lasting) else PassingError
    return kind(
        f"no answer: {reason(error)}",
        place=redacted(url),
        next_step="check the address, the network and the proxy variables, then run again",
    )
