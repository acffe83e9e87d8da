"""Asking an image server over DICOMweb (PS3.18): QIDO-RS page by page, WADO-RS instance by instance, with retries.

An extra, ``pip install imgsynth[intake]``, imported only when asked for.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from imgsynth.types import Fault, InputError

if TYPE_CHECKING:
    import requests

T = TypeVar("T")
Found = dict[str, Any]  # one result of a search, in the DICOM JSON model (PS3.18 F.2)

USER, PASSWORD, TOKEN = (f"IMGSYNTH_DICOMWEB_{name}" for name in ("USER", "PASSWORD", "TOKEN"))
ATTEMPTS = 5
WAIT = 0.5  # seconds before the second attempt; doubled before each further one
TIMEOUT = (10.0, 120.0)  # seconds, to connect and between two bytes
PAGE = 500  # results that one search asks for
PASSING = (408, 429, 500, 502, 503, 504)  # HTTP statuses that may go away
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Damaged(Exception):
    """An answer that is not the whole instance that was asked for; the next may be."""


def url_fault(url: str) -> Fault | None:
    """What is wrong with the address of a server; no password may stand in it, nor travel in the clear."""
    where, parts = "data.dicomweb.url", urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        return Fault(where, "an address with a user, password, query or fragment in it", "the bare address",
                     f"credentials in {USER} and {PASSWORD}, in {TOKEN}, or in netrc")  # fmt: skip
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return Fault(where, url, "https://HOST/PATH", "data.dicomweb.url=https://pacs.example.org/dicom-web")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        return Fault(where, url, "https, as patients' images would cross the network unencrypted",
                     "https, or a tunnel (ssh -L) whose end is on this machine")  # fmt: skip
    return None


class Server:
    """One connection, for one thread. Certificates are always verified; redirects are not followed."""

    def __init__(self, url: str):
        try:
            import requests
            from dicomweb_client import DICOMwebClient
        except ImportError as error:
            raise InputError(Fault("data.kind", "dicomweb, without dicomweb-client installed", "the extra intake",
                                   "pip install 'imgsynth[intake]'")) from error  # fmt: skip
        self.url = url
        self._session = requests.Session()
        self._session.max_redirects = 0
        self._session.auth = _credentials()
        self._answer: requests.Response | None = None
        self._client = DICOMwebClient(url, self._session, callback=self._keep, timeout=TIMEOUT)
        self._client.set_http_retry_params(retry=False)  # ``_persist`` retries, after more than HTTP errors

    def studies(self, filters: dict[str, str]) -> Iterator[Found]:
        return self._pages(
            lambda n: self._client.search_for_studies(limit=PAGE, offset=n, search_filters=filters), STUDY
        )

    def series(self, study: str, filters: dict[str, str]) -> Iterator[Found]:
        return self._pages(
            lambda n: self._client.search_for_series(study, limit=PAGE, offset=n, search_filters=filters), SERIES
        )

    def instances(self, study: str, series: str) -> Iterator[Found]:
        return self._pages(lambda n: self._client.search_for_instances(study, series, limit=PAGE, offset=n), SOP)

    def instance(self, study: str, series: str, sop: str) -> bytes:
        """The DICOM file of an instance as the server stores it, to the byte.

        One whose pixels end too soon is asked for again. If it comes alike a second time it is stored so, and is the
        DICOM reader's to refuse by name.
        """
        short = b""

        def get() -> bytes:
            nonlocal short
            self._client.retrieve_instance(study, series, sop)
            assert self._answer is not None
            content = _single_part(self._answer)
            dataset = dcmread(io.BytesIO(content))
            got = tuple(str(dataset.get(n, "")) for n in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
            if got != (study, series, sop):
                raise Damaged(f"the instance {got[2] or 'without a UID'} of series {got[1] or 'unknown'}")
            if not _has_all_pixels(dataset) and content != short:
                short = content
                raise Damaged("pixels that end too soon")
            return content

        return self._persist(get, f"instance {sop}")

    def _keep(self, answer: requests.Response, *_: object, **__: object) -> requests.Response:
        self._answer = answer
        return answer

    def _pages(self, search: Callable[[int], list[Found]], key: str) -> Iterator[Found]:
        """All results, each once. A server that knows no offset gives the first page again: the search ends there."""
        seen: set[str] = set()
        count = 0
        while True:
            page = self._persist(partial(search, count), "search")
            fresh = [found for found in page if value_of(found, key) not in seen]
            seen |= {value_of(found, key) for found in fresh}
            yield from fresh
            count += len(page)
            if not fresh:
                return

    def _persist(self, ask: Callable[[], T], what: str) -> T:
        """Ask until there is an answer, at most ``ATTEMPTS`` times; InputError says why there is none."""
        import requests

        for attempt in range(1, ATTEMPTS + 1):
            try:
                return ask()
            except requests.HTTPError as error:
                status = error.response.status_code if error.response is not None else 0
                fault = _refused(self.url, what, status)
                if status not in PASSING:
                    raise InputError(fault) from None
            except requests.exceptions.SSLError as error:
                raise InputError(Fault(self.url, f"a certificate that does not verify ({_short(error)})",
                                       "a certificate of an authority that this machine trusts",
                                       "REQUESTS_CA_BUNDLE=FILE.pem with your institution's authority; verification "
                                       "cannot be switched off")) from None  # fmt: skip
            except requests.TooManyRedirects:
                raise InputError(Fault(self.url, f"a redirect, asked for {what}", "an answer",
                                       "data.dicomweb.url= the address that it points to")) from None  # fmt: skip
            except (requests.RequestException, Damaged, InvalidDicomError, ValueError, IndexError, EOFError) as error:
                fault = Fault(self.url, f"no usable answer, asked for {what} ({_short(error)})", "a DICOMweb server",
                              "the same command again, which goes on where this one stopped")  # fmt: skip
            if attempt < ATTEMPTS:
                time.sleep(WAIT * 2 ** (attempt - 1))
        raise InputError(fault)


STUDY, SERIES, SOP = "0020000D", "0020000E", "00080018"


def value_of(found: Found, tag: str) -> str:
    """The first value of an attribute as text; "" where there is none."""
    values = found.get(tag, {}).get("Value") or [""]
    return str(values[0]).strip()


def _credentials() -> Callable[[Any], Any] | None:
    """A token or a user from the environment. None leaves it to requests, which looks into netrc."""
    from requests.auth import HTTPBasicAuth

    token, user, password = (os.environ.get(name) for name in (TOKEN, USER, PASSWORD))
    if token:

        def bearer(request: Any) -> Any:
            request.headers["Authorization"] = f"Bearer {token}"
            return request

        return bearer
    return HTTPBasicAuth(user, password or "") if user else None


def _single_part(answer: requests.Response) -> bytes:
    """The one part of a multipart/related body (RFC 2387), which must be closed; the body where it is none."""
    kind, body = answer.headers.get("Content-Type", ""), answer.content
    boundary = re.search(r'boundary="?([^";]+)', kind, re.IGNORECASE)
    if boundary is None:
        return body
    mark = b"--" + boundary.group(1).encode()
    head, found, rest = body.partition(b"\r\n\r\n")
    end = rest.rfind(b"\r\n" + mark + b"--")
    if mark not in head or not found or end < 0:
        raise Damaged("a multipart message without its end")
    return rest[:end]


def _has_all_pixels(dataset: Dataset) -> bool:
    if "Rows" not in dataset:
        return True  # no image
    pixels = next((dataset[k] for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if k in dataset), None)
    if pixels is None:
        return False  # pydicom drops an element of undefined length that has no end
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        return True
    bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel", 1))
    bits *= int(dataset.get("NumberOfFrames") or 1) * int(dataset.BitsAllocated)
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits * 2 // 3  # two pixels share their colours
    return len(pixels.value) >= bits // 8


def _refused(url: str, what: str, status: int) -> Fault:
    remedies = {
        401: f"credentials: {USER} and {PASSWORD}, or {TOKEN}, in the environment, or a line for the host in netrc",
        403: "credentials of an account that may read these studies",
        404: "data.dicomweb.url= the root of the DICOMweb services (Orthanc: …/dicom-web), if no search finds them",
    }
    return Fault(url, f"HTTP status {status}, asked for {what}", "an answer",
                 remedies.get(status, "the same command again, which goes on where this one stopped"))  # fmt: skip


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
