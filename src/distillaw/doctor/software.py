"""Versions of what computes, and the extras of this package with the packages that each still lacks.

Nothing is imported for it: versions come from the metadata of what is installed.
"""

import importlib.metadata
import os
import platform
import re
from dataclasses import dataclass

from distillaw.version import __version__

COMPUTING = ("numpy", "scipy", "torch", "transformers", "tokenizers", "safetensors", "pyarrow", "matplotlib")
NOT_FOR_USERS = ("dev", "browser")
"""Extras of those who work on this package."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """One optional part of the package."""

    name: str
    installed: dict[str, str]
    """Package -> version."""
    missing: tuple[str, ...]

    @property
    def command(self) -> str:
        """What brings it."""
        return f'pip install "distillaw[{self.name}]"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """What is installed."""

    distillaw: str
    python: str
    platform: str
    packages: dict[str, str | None]
    """Package -> version, None where it is missing."""
    blas: str
    """The library behind numpy's matrix products."""
    threads: dict[str, str]
    """Variables of the environment that limit threads, where they are set."""
    extras: tuple[Extra, ...]

    def extra(self, name: str) -> Extra | None:
        """The one of this name; None where the package's own metadata is not installed."""
        return next((extra for extra in self.extras if extra.name == name), None)


def read_software() -> Software:
    """Look at what is installed."""
    return Software(
        distillaw=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        packages={name: version(name) for name in COMPUTING},
        blas=_blas(),
        threads={name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        extras=_extras(),
    )


def version(package: str) -> str | None:
    """Installed version; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _blas() -> str:
    import numpy as np

    found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index]
    return f"{found.get('name', 'unknown')} {found.get('version', '')}".strip()


def _extras() -> tuple[Extra, ...]:
    """From the metadata of this package: `torch>=2.13; extra == "train"`."""
    needed: dict[str, list[str]] = {}
    try:
        requirements = importlib.metadata.requires("distillaw") or []
    except importlib.metadata.PackageNotFoundError:  # run from the sources, not installed
        return ()
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"extra == ['\"]([a-z0-9-]+)['\"]", requirement)
        if name and extra and extra[1] not in NOT_FOR_USERS:
            needed.setdefault(extra[1], []).append(name[0])
    return tuple(_extra(name, packages) for name, packages in needed.items())


def _extra(name: str, packages: list[str]) -> Extra:
    versions = {package: version(package) for package in packages}
    return Extra(
        name=name,
        installed={package: found for package, found in versions.items() if found is not None},
        missing=tuple(package for package, found in versions.items() if found is None),
    )
