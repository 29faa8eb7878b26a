"""`stockpot completion`: the shell completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from worker.cli.output import put


@click.command(
    epilog="""\b
Examples:
  eval "$(stockpot completion bash)"                      in ~/.bashrc
  eval "$(stockpot completion zsh)"                       in ~/.zshrc
  stockpot completion fish > ~/.config/fish/completions/stockpot.fish
"""
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the script by which SHELL completes commands and options of stockpot."""
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"this version of click has no completion for {shell}")
    from worker.cli.app import main

    put(made(main, {}, "stockpot", "_STOCKPOT_COMPLETE").source())
