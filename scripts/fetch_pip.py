"""Puts pip into the environment of the Python that runs this, for a distribution that packs ensurepip apart.

Called by environment.py when the machine has neither ensurepip nor pip nor uv. pip's wheel comes from the index that pip itself
would ask, is held against the SHA-256 that the index names, and installs itself. Standard library only.
"""

import configparser
import contextlib
import hashlib
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

DOWNLOAD_SECONDS = 60
DOWNLOAD_BYTES = 50 * 1024 * 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        try:
            wheel = download_pip(Path(directory))
        except (OSError, ValueError, KeyError) as error:
            sys.exit(f"could not fetch pip from {index_url()}: {error}")
        # A wheel is an archive that Python can run from.
        sys.exit(subprocess.call([sys.executable, wheel / "pip", "install", "--no-index", "--no-input", wheel]))


@dataclass(frozen=True, slots=True)
class Wheel:
    """One pip wheel of an index."""

    name: str
    url: str
    sha256: str
    requires_python: str
    yanked: bool

    @property
    def version(self) -> tuple[int, ...]:
        """Empty for a file that is no final release's wheel."""
        match = re.fullmatch(r"pip-(\d+(?:\.\d+)*)-[^-]+-none-any\.whl", self.name)
        return tuple(map(int, match[1].split("."))) if match else ()

    @property
    def usable(self) -> bool:
        oldest = re.search(r">=\s*3\.(\d+)", self.requires_python)
        fits = oldest is None or sys.version_info >= (3, int(oldest[1]))
        return bool(self.version and self.sha256 and not self.yanked and fits)


def download_pip(directory: Path) -> Path:
    page_url = index_url().rstrip("/") + "/pip/"
    page, content_type = fetch(page_url, accept="application/vnd.pypi.simple.v1+json, text/html;q=0.5")
    wheels = wheels_of_json(page, page_url) if "json" in content_type else wheels_of_html(page, page_url)
    wheel = max((wheel for wheel in wheels if wheel.usable), key=lambda wheel: wheel.version, default=None)
    if wheel is None:
        raise ValueError("it lists no wheel of pip for this Python")
    content, _ = fetch(wheel.url)
    if hashlib.sha256(content).hexdigest() != wheel.sha256:
        raise ValueError(f"the SHA-256 of {wheel.name} is not the one that the index names")
    path = directory / wheel.name
    path.write_bytes(content)
    return path


def wheels_of_json(page: bytes, page_url: str) -> list[Wheel]:
    return [
        Wheel(
            name=file["filename"],
            url=urllib.parse.urljoin(page_url, file["url"]),
            sha256=file["hashes"].get("sha256", ""),
            requires_python=file.get("requires-python") or "",
            yanked=bool(file.get("yanked")),
        )
        for file in json.loads(page)["files"]
    ]


def wheels_of_html(page: bytes, page_url: str) -> list[Wheel]:
    links = Links()
    links.feed(page.decode())
    wheels = []
    for link in links.found:
        url, fragment = urllib.parse.urldefrag(urllib.parse.urljoin(page_url, link.get("href") or ""))
        wheels.append(
            Wheel(
                name=urllib.parse.unquote(url.rsplit("/", 1)[-1]),
                url=url,
                sha256=dict(urllib.parse.parse_qsl(fragment)).get("sha256", ""),
                requires_python=link.get("data-requires-python") or "",
                yanked="data-yanked" in link,
            )
        )
    return wheels


@dataclass
class Links(HTMLParser):
    """Gathers the attributes of every link of a page."""

    found: list[dict[str, str | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append(dict(attrs))


def fetch(url: str, *, accept: str = "*/*") -> tuple[bytes, str]:
    """Content and content type. Trusts what OpenSSL trusts, or the certificates that pip is told of."""
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{url} is no web address")
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
    request = urllib.request.Request(url, headers={"Accept": accept, "User-Agent": "pgqueue-setup"})
    with urllib.request.urlopen(request, timeout=DOWNLOAD_SECONDS, context=context) as response:
        content = response.read(DOWNLOAD_BYTES + 1)
        if len(content) > DOWNLOAD_BYTES:
            raise ValueError(f"{url} is larger than {DOWNLOAD_BYTES} bytes")
        return content, response.headers.get("Content-Type", "")


def index_url() -> str:
    """The package index that pip would ask: from its variable, its configuration files (the nearest first), else PyPI."""
    if url := os.environ.get("PIP_INDEX_URL"):
        return url
    for path in pip_configuration_files():
        parser = configparser.RawConfigParser()
        with contextlib.suppress(configparser.Error, UnicodeDecodeError):
            parser.read(path)
        for section in ("install", "global"):
            if url := parser.get(section, "index-url", fallback=""):
                return url
    return "https://pypi.org/simple"


def pip_configuration_files() -> list[Path]:
    named = os.environ.get("PIP_CONFIG_FILE")
    home = Path.home()
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return [
        *([Path(named)] if named else []),
        configuration / "pip" / "pip.conf",
        home / "Library" / "Application Support" / "pip" / "pip.conf",
        home / ".pip" / "pip.conf",
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/pip.conf"),
    ]


if __name__ == "__main__":
    main()
