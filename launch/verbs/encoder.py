"""What `hnm encoder` does: the registry in words, and weights from the hub into its cache, before a job needs them."""

from typing import Any

from pydantic import ValidationError

from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.hub import cached_weights, place_of, refusal
from hnm.encoder.hub import fetch as fetch_place
from hnm.encoder.networks import build_encoder, in_words, resolve
from hnm.encoder.registry import REGISTRY, spec_of_row
from shards.errors import InputError

LINE = "{:<14} {:>8} {:>12} {:>5}  {:<16} {:<21} {:<6} {}"
YES = {True: "yes", False: "no"}


def print_list() -> int:
    """Print a row for each foundation model of the registry."""
    print(LINE.format("name", "features", "10^6 weights", "side", "microns/px", "licence", "gated", "here"))
    for name, row in REGISTRY.items():
        mpp = ", ".join(f"{value:g}" for value in row.mpp)
        here = "yes" if cached_weights(name) else "no"
        millions = f"{row.millions:.1f}" if row.millions else "-"
        figures = (row.feature_dim, millions, row.input.side_px, mpp, row.licence, YES[row.gated], here)
        print(LINE.format(name, *figures))
    print("hnm encoder show NAME tells more; hnm encoder fetch NAME brings the weights here")
    return 0


def show(name: str) -> int:
    """Print what is known of an encoder."""
    config = _config(name)
    if config.name is None or name.startswith(("torchvision/", "python/")):
        print(in_words(build_encoder(config)))
        return 0
    is_open = name in REGISTRY and not REGISTRY[name].network and cached_weights(name) is None
    spec = spec_of_row(name) if is_open else resolve(config)
    lines: dict[str, Any] = {"name": name, "network": f"timm {spec.network}", "arguments": spec.arguments or "-"}
    if is_open:
        lines |= {"network": "as the config.json says that is fetched with its weights"}
    lines |= {"input": spec.input}
    lines |= {"pooling": spec.pooling, "licence": spec.licence or "unknown", "may be passed on": _words(spec.may_be_passed_on)}
    if name in REGISTRY:
        row = REGISTRY[name]
        lines |= {"features": row.feature_dim, "parameters": f"{row.millions or '-'} million", "precision": row.precision}
        lines |= {"microns per pixel": ", ".join(f"{value:g}" for value in row.mpp), "gated": YES[row.gated]}
        lines |= {"source": f"{row.source} (see hnm/encoder/registry.py)"}
    if (place := place_of(name)) is not None:
        lines |= {"hub": place}
    lines |= {"weights": cached_weights(name) or f"not here. hnm encoder fetch {name}"}
    for key, value in lines.items():
        print(f"{key:<18} {value}")
    return 0


def fetch(name: str) -> int:
    """Bring the weights of an encoder into the hub's cache, and say what may not be done with them.

    Raises:
        InputError: they are on no hub, or the hub does not give them.
    """
    _config(name)
    place = place_of(name)
    if place is None:
        raise InputError(f"{name}: its weights are on no hub. Give a file: --encoder FILE encoder.name={name}")
    path = cached_weights(name) or fetch_place(place, name)
    spec = resolve(_config(name))
    print(f"{path}\n{spec.licence_note()}\nNext: hnm train COHORT RUN --encoder {name}")
    return 0


def whereabouts(name: str) -> tuple[str, bool]:
    """Return where an encoder's weights are or why they cannot be had, and whether a training would find or could get them.

    Raises:
        InputError: there is no encoder of that name.
    """
    if (path := cached_weights(_config(name).name or "")) is not None:
        return f"{name}: {path}", True
    if name.startswith("python/"):
        return in_words(build_encoder(_config(name))), True
    place = place_of(name)
    if place is None:
        return f"{name}: its weights are on no hub. Give a file: --encoder FILE encoder.name={name}", False
    reason = refusal(place, name)
    return reason or f"{name}: not here, but the hub would give it. Before a job: hnm encoder fetch {name}", reason is None


def _words(is_so: bool | None) -> str:
    return {True: "yes, under the licence's terms", False: "no", None: "read the licence"}[is_so]


def _config(name: str) -> EncoderConfig:
    try:
        return EncoderConfig.model_validate({"name": name})
    except ValidationError as error:
        raise InputError(f"{name}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
