"""Weights on the Hugging Face hub: found in its cache, fetched into it, and what keeps them from being fetched.

    login node:    hnm encoder fetch NAME ──hub──▶ cache (HF_HOME)
    compute node:  hnm train --encoder NAME, HF_HUB_OFFLINE=1 ◀── cache; nothing is ever downloaded by a training
"""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hnm.encoder.registry import REGISTRY, spec_of_row
from hnm.encoder.spec import InputSpec, NetworkSpec
from hnm.encoder.timm_models import arguments_for_side, import_timm, input_of_timm, licence_of_timm
from hnm.encoder.transformers_layout import BASE, MODEL_TYPES, arguments_of, input_of
from shards.errors import InputError

NEEDS_HUB = "{} needs huggingface-hub, which is not installed: pip install 'hnm[encoders]'"
CONFIG_FILE, PREPROCESSOR_FILE = "config.json", "preprocessor_config.json"  # the second only in transformers' layout
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Place:
    """Where a network's weights are.

    Attributes:
        repository: ORG/REPO on the hub.
        revision: commit, tag or branch; None: main.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision or 'main'}"


def place_of(name: str) -> Place | None:
    """Return where the weights of an encoder's name are on the hub; None: they are on no hub.

    Raises:
        InputError: timm is needed for that, and is not installed.
    """
    if name in REGISTRY:
        return Place(REGISTRY[name].repository, REGISTRY[name].revision)
    kind, _, rest = name.partition("/")
    if kind == "hf" and not Path(rest).is_dir():
        repository, _, revision = rest.partition("@")
        return Place(repository, revision or None)
    if kind == "timm":
        own = import_timm(name).get_pretrained_cfg(rest)
        return Place(own.hf_hub_id) if own is not None and own.hf_hub_id else None
    return None


def cached(place: Place, file: str) -> Path | None:
    """Return a file of a repository in the cache; None: it is not there."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(place.repository, file, revision=place.revision)
    return Path(found) if isinstance(found, str) else None


def cached_weights(name: str) -> Path | None:
    """Return the file of an encoder's weights that is on this machine; None: there is none."""
    kind, _, rest = name.partition("/")
    if kind == "hf" and Path(rest).is_dir():
        return next((Path(rest) / file for file in WEIGHT_FILES if (Path(rest) / file).is_file()), None)
    place = place_of(name)
    if place is None:
        return None
    return next((path for file in WEIGHT_FILES if (path := cached(place, file))), None)


def fetch(place: Place, name: str) -> Path:
    """Bring a repository's configuration and weights into the cache and return the file of the weights.

    Raises:
        InputError: saying why not (no network, HF_HUB_OFFLINE, not let in, no such repository), and what helps.
    """
    if (reason := refusal(place, name)) is not None:
        raise InputError(reason)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    found: dict[str, Path] = {}
    for file in (CONFIG_FILE, PREPROCESSOR_FILE, *WEIGHT_FILES):
        if file in WEIGHT_FILES and found.keys() & set(WEIGHT_FILES):
            break
        try:
            found[file] = Path(hf_hub_download(place.repository, file, revision=place.revision))
        except EntryNotFoundError:
            continue
    for file in WEIGHT_FILES:
        if file in found:
            return found[file]
    raise InputError(f"{place}: has neither {' nor '.join(WEIGHT_FILES)}. Download its weights by hand, and give the file")


def refusal(place: Place, name: str) -> str | None:
    """Return why the hub does not give a repository, in words with the remedy; None: it would."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return NEEDS_HUB.format(name)
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import GatedRepoError, HTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    page = f"https://huggingface.co/{place.repository}"
    try:
        HfApi().auth_check(place.repository)
    except GatedRepoError:
        if get_token() is None:
            return f"{name}: {page} is gated, and there is no token. Ask there for access, then: hf auth login (or set HF_TOKEN)"
        return f"{name}: {page} is gated, and the token's account has not been let in. Ask there"
    except RepositoryNotFoundError:
        return f"{name}: the hub has no {page}, or it is private. Look there, or: hf auth login"
    except OfflineModeIsEnabled:
        return f"{name}: HF_HUB_OFFLINE is set. Fetch without it, on a machine with a network: hnm encoder fetch {name}"
    except (HTTPError, OSError) as error:
        return (
            f"{name}: the hub cannot be reached ({error}). Run hnm encoder fetch {name} where there is a network (a login node), "
            f"or give a file: --encoder FILE encoder.name={name}"
        )
    return None


def spec_of_hub(rest: str, name: str, side_px: int | None) -> NetworkSpec:
    """Return the description of a network in timm's or transformers' layout, of a repository in the cache or of a folder.

    Args:
        rest: ORG/REPO, ORG/REPO@REVISION, or a folder with config.json.
        name: of the encoder, as in encoder.name.
        side_px: the side that the user wants; None: the network's own.

    Raises:
        InputError: it is not there, or is in another layout.
    """
    folder = Path(rest) if Path(rest).is_dir() else None
    content = _described(folder, name, CONFIG_FILE)
    if content.get("model_type") in MODEL_TYPES:
        return _spec_of_transformers(content, folder, name, side_px)
    if "architecture" not in content:
        raise InputError(
            f"encoder.name={name}: its {CONFIG_FILE} is neither of timm's layout (architecture) nor a ViT of transformers' "
            f"(model_type {content.get('model_type')!r} instead of {', '.join(MODEL_TYPES)}). Use "
            "encoder.name=python/MODULE:FACTORY"
        )
    architecture = str(content["architecture"])
    timm = import_timm(name)
    by_timm = timm.get_pretrained_cfg(architecture)
    own = {**(by_timm.to_dict() if by_timm is not None else {}), **content.get("pretrained_cfg", content)}
    return NetworkSpec(
        name=name,
        source="timm",
        network=architecture,
        arguments=arguments_for_side(own, side_px, content.get("model_args", {})),
        input=input_of_timm(own),
        **licence_of_timm(own),
    )


def spec_of_published(name: str, side_px: int | None) -> NetworkSpec:
    """Return the description of a row of the registry whose network stands in its repository's config.json.

    Raises:
        InputError: that is not in the cache, or describes no network of timm.
    """
    spec = spec_of_row(name)
    content = _described(None, name, CONFIG_FILE)
    found = _spec_of_transformers(content, None, name, side_px, spec.input)
    return spec.model_copy(update={"network": found.network, "arguments": found.arguments})


def _spec_of_transformers(
    content: dict[str, Any], folder: Path | None, name: str, side_px: int | None, wanted: InputSpec | None = None
) -> NetworkSpec:
    """Return the description of a ViT or DINOv2 in transformers' layout."""
    import_timm(name)
    try:
        if content.get("model_type") not in MODEL_TYPES:
            raise ValueError(f"model_type {content.get('model_type')!r} instead of {', '.join(MODEL_TYPES)}")
        wanted = wanted or input_of(_described(folder, name, PREPROCESSOR_FILE))
        arguments = arguments_of(content, side_px or wanted.side_px)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"encoder.name={name}: {CONFIG_FILE} and {PREPROCESSOR_FILE} do not describe a network of timm "
            f"({type(error).__name__}: {error}). Use encoder.name=python/MODULE:FACTORY"
        ) from None
    return NetworkSpec(name=name, source="timm", network=BASE, arguments=arguments, input=wanted)


def _described(folder: Path | None, name: str, file: str) -> dict[str, Any]:
    """Return what a JSON file of a folder, or of a repository in the cache, says.

    Raises:
        InputError: it is not there, or no JSON.
    """
    place = place_of(name)
    path = folder / file if folder else cached(place, file) if place else None
    if path is None:
        raise InputError(
            f"encoder.name={name}: {file} is neither in a folder of that name nor in the hub's cache. First: hnm encoder "
            f"fetch {name}; or give a folder that holds it: encoder.name=hf/FOLDER"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}: {error}). Copy the folder anew") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: describes no network. Copy the folder anew")
    return content
