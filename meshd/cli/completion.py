"""`meshd completion`: the script by which a shell completes meshd's verbs and flags."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash  meshd completion bash > /etc/bash_completion.d/meshd
    zsh   meshd completion zsh > "${fpath[1]}/_meshd"
    fish  meshd completion fish > ~/.config/fish/completions/meshd.fish
    """
    completion = get_completion_class(shell)
    assert completion is not None, f"click completes {shell}"
    click.echo(completion(ctx.find_root().command, {}, "meshd", "_MESHD_COMPLETE").source())
