"""The examples in the docstrings print what they say."""

import doctest
from importlib import import_module
from pkgutil import iter_modules

import pytest

import distillaw.accounting as package

MODULES = [module.name for module in iter_modules(package.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(import_module(f"distillaw.accounting.{name}")).failed == 0
