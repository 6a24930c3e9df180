"""Limits on the size, the time and the redirects of a download."""

import time
from http.client import HTTPMessage, HTTPResponse
from queue import Empty, Queue
from threading import Thread
from typing import IO
from urllib.request import HTTPRedirectHandler, Request, build_opener

from lgmnet.data.catalogue import DownloadError

# COCO, the largest set, has 19 GB.
SLOWEST, WINDOW_S = 1000, 60.0  # bytes per second, over so many seconds
LARGEST_FILE = 100 * 10**9


def content_length(response: HTTPResponse) -> int:
    """Bytes that the server will send; 0 if it does not state them."""
    text = response.headers.get("Content-Length", "0")
    if not (text.isascii() and text.isdigit()):
        raise ConnectionError(f"the server gives the length {text[:40]!r}, expected a number")
    require_size(int(text[:20]))
    return int(text)


def require_size(count: int) -> None:
    if count > LARGEST_FILE:
        raise DownloadError(
            f"the server sends more than {LARGEST_FILE / 1e9:g} GB for one file; use a local copy, "
            "--from DIR"
        )


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, but not from https to an address without encryption."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise DownloadError(
                f"{req.full_url} redirects to {newurl}, which is not encrypted; use a local copy, "
                "--from DIR"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_url(request: Request, timeout: float) -> HTTPResponse:
    """As `urllib.request.urlopen`, with these redirects and a limit for all headers together.

    Args:
        timeout: seconds without a byte.

    Raises:
        DownloadError: a redirect leaves https.
        ConnectionError: the headers are not complete within `WINDOW_S`.
    """
    answers: Queue[HTTPResponse | BaseException] = Queue()

    def ask() -> None:
        try:
            answers.put(build_opener(_Redirects).open(request, timeout=timeout))
        except BaseException as error:  # raised again in the thread that waits
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=WINDOW_S)
    except Empty:
        raise ConnectionError(
            f"the server did not send its headers within {WINDOW_S:g} s"
        ) from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


class Pace:
    """Speed of a download. A server that sends very slowly must not keep it running for ever."""

    def __init__(self) -> None:
        self.total = self._recent = 0
        self._since = time.monotonic()

    def add(self, count: int) -> None:
        """Raises ConnectionError if too few bytes have come since the last check."""
        self.total += count
        self._recent += count
        seconds = time.monotonic() - self._since
        if seconds < WINDOW_S:
            return
        if self._recent < SLOWEST * seconds:
            raise ConnectionError(f"the server sends less than {SLOWEST} bytes per second")
        self._recent, self._since = 0, time.monotonic()
