"""`hnm encoder ...`: what these verbs accept; what they do is in launch/verbs/encoder.py."""

from typing import Annotated

import typer

from launch.cli.options import finish

encoder_app = typer.Typer(no_args_is_help=True, help="Foundation models as encoders: which there are, and their weights.")
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="As in encoder.name, such as uni2-h or timm/resnet50.a1_in1k.")]


@encoder_app.command(name="list")
def list_encoders() -> None:
    """Print the foundation models that have a short name: what they want to see, their licence, whether they are here.

    Example: `hnm encoder list`
    """
    from launch.verbs import encoder as verb

    finish(verb.print_list)


@encoder_app.command()
def show(name: NameArgument) -> None:
    """Print all that is known of one encoder: construction, input, pooling, licence, sources, where its weights are.

    Example: `hnm encoder show uni2-h`
    """
    from launch.verbs import encoder as verb

    finish(lambda: verb.show(name))


@encoder_app.command()
def fetch(name: NameArgument) -> None:
    """Bring an encoder's weights into the hub's cache, on a machine with a network; trainings read them there.

    Example: `hnm encoder fetch uni2-h`, then on a compute node `HF_HUB_OFFLINE=1 hnm train cohort/ run/ --encoder uni2-h`
    """
    from launch.verbs import encoder as verb

    finish(lambda: verb.fetch(name))
