"""`distillaw completion SHELL` and `distillaw --install-completion`: what makes Tab work in bash, zsh and fish."""

import shlex
from typing import Literal, TypeAlias

from distillaw.cli.console import write_whole
from distillaw.cli.options import OutFile
from distillaw.cli.output import Output
from distillaw.errors import ConfigError

Shell: TypeAlias = Literal["bash", "zsh", "fish"]


def completion(shell: Shell, *, output: Output = Output()) -> None:
    """Print the script that completes commands, options, names and files in a shell.

    bash: source <(distillaw completion bash). fish: distillaw completion fish | source. zsh: write it to a file
    _distillaw in a folder of $fpath. `distillaw --install-completion` puts it where the shell looks by itself.

    Args:
        shell: bash, zsh or fish.
    """
    from distillaw.cli.app import app

    script = app.generate_completion(shell=shell)
    output.answer({"shell": shell, "script": script}, write_whole, script)


def install(*, shell: Shell | None = None, out: OutFile | None = None, output: Output = Output()) -> None:
    """Install completion for your shell: a script where it looks, and for bash and zsh a line in its start file.

    Args:
        shell: bash, zsh or fish; by default the one this was called from.
        out: file to write instead; no start file is changed then.
    """
    from cyclopts.completion.detect import ShellDetectionError, detect_shell

    from distillaw.cli.app import app

    try:
        name = shell or detect_shell()
    except ShellDetectionError as error:
        raise ConfigError("which shell this is cannot be told: add --shell bash, zsh or fish") from error
    path = app.install_completion(shell=name, output=out, add_to_startup=out is None)
    said, command = f"{path}: completion for {name}", f"source {shlex.quote(str(path))}"
    if out is None or name == "zsh":
        where = "copy it to _distillaw in a folder of $fpath, then " if out is not None else ""
        said, command = f"{said}\n{where}start a new {name}, type distillaw and press Tab", "distillaw --help"
    output.answer({"shell": name, "script": str(path)}, print, said)
    output.suggest(command)
