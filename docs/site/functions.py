"""The reference of the Python names, made from their docstrings by Sphinx's autodoc: one page a package."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import distillaw

# package -> what is in it; public are its own `__all__`, and every class and function without a leading underscore
PACKAGES = {
    "laws": "The equations: losses without and with a teacher, the capacity gap, the published coefficients.",
    "fitting": "From runs to a law with intervals, and the runs to do next.",
    "planning": "From laws and runs to a verdict.",
    "accounting": "Parameters, FLOP, memory, money.",
    "distill": "Losses towards a teacher.",
    "large_batch": "Batch, rate, noise scale, critical batch, ghost batch normalisation.",
    "figures": "Figures for papers, as matplotlib figures.",
}


def public_symbols(module_name: str) -> dict[str, object]:
    """The classes and functions that a module defines and does not hide, by name."""
    module = importlib.import_module(module_name)
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module_name
    }


def modules_of(package: str) -> list[str]:
    """Full names of the modules of `distillaw.PACKAGE`."""
    found = importlib.import_module(f"distillaw.{package}")
    return [f"distillaw.{package}.{entry.name}" for entry in pkgutil.iter_modules(found.__path__)]


def returned() -> list[str]:
    """Where the objects are defined that the public functions return."""
    kinds = []
    for name in sorted(set(distillaw.__all__) - {"__version__"}):
        value = getattr(distillaw, name)
        if inspect.isfunction(value):
            kind = inspect.get_annotations(value, eval_str=True).get("return")
            if inspect.isclass(kind) and kind.__module__.startswith("distillaw.") and kind not in kinds:
                kinds.append(kind)
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in kinds]


def write_functions(target: Path) -> None:
    """`functions.md` with the public names, `functions/PACKAGE.md` with everything."""
    folder = target / "functions"
    folder.mkdir()
    for package, line in PACKAGES.items():
        modules = [_module(name) for name in modules_of(package) if public_symbols(name)]
        parts = "\n\n".join([*_named(f"distillaw.{package}"), *modules])
        (folder / f"{package}.md").write_text(f"# distillaw.{package}\n\n{line}\n\n{parts}\n")
    (target / "functions.md").write_text(_front())


def _front() -> str:
    rows = "\n".join(f"| [distillaw.{name}](functions/{name}.md) | {line} |" for name, line in PACKAGES.items())
    results = "\n".join(_member(name, ":members:", ":no-index:") for name in returned())
    entries = "\n".join(f"functions/{name}" for name in PACKAGES)
    return (
        "# Every function\n\n`import distillaw as dl` imports neither torch nor scipy; a name is loaded when "
        f"it is first used.\n\n| package | what is in it |\n| --- | --- |\n{rows}\n\n"
        f"{_named('distillaw')[0]}\n\n"
        f"## What they return\n\n{_rst(results)}\n\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n"
    )


def _named(package: str) -> list[str]:
    """The functions and classes that a package offers by its `__all__`; nothing where it has none."""
    found = importlib.import_module(package)
    offered = {name: getattr(found, name) for name in vars(found).get("__all__", ())}
    names = [name for name, value in offered.items() if inspect.isclass(value) or inspect.isfunction(value)]
    members = "\n".join(_member(f"{package}.{name}", ":no-index:") for name in names)
    return [f"## Public names\n\n{_rst(members)}"] if names else []


def _member(name: str, *options: str) -> str:
    kind = "autoclass" if name.rsplit(".", 1)[-1][0].isupper() else "autofunction"
    return f".. {kind}:: {name}\n" + "".join(f"   {option}\n" for option in options)


def _module(name: str) -> str:
    return f"## {name.removeprefix('distillaw.')}\n\n" + _rst(f".. automodule:: {name}\n   :members:\n")


def _rst(text: str) -> str:
    return f"```{{eval-rst}}\n{text}```"
