"""Pathology foundation models by short names: where their weights are, how they are built, what they want to see.

A row stands here only where the network is timm's and every figure has a source; none is from memory. Rows without a network are
in transformers' layout (hnm/encoder/transformers_layout.py): how they are built says the config.json that is fetched with them.
Sources, read on 2026-11-28:
    T   mahmoodlab/TRIDENT at 0120b8b: trident/patch_encoder_models/load.py (construction, normalisation, resizing, precision) and
        README.md (features, magnification, gated, licence); --mag 20 is 0.5 microns per pixel
    E   kaiko-ai/eva at 073577a: src/eva/vision/models/networks/backbones/pathology/ (construction; Lunit's mean and deviation)
    K   kaiko-ai/towards_large_pathology_fms: hubconf.py at 480274c, README.md at 241ecca (construction, normalisation)
    H   the repository's page on huggingface.co (licence, gated, commits)
    V   arXiv 2408.00738 and ramonkaspar.github.io/wsistream/recipes/virchow: tiles of 5x, 10x, 20x and 40x
Parameters and features are counted in the built network (tests/hnm/encoder/test_registry.py builds each without memory).

Left out, docs/encoders.md says why and how they come in all the same: CONCH, CONCH v1.5, CTransPath, Phikon, Hibou, H0-mini.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from hnm.encoder.spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec, NetworkSpec

HALF = (0.5, 0.5, 0.5)
H_OPTIMUS = InputSpec(  # T; H-optimus-0's page says the same
    side_px=224, mean=(0.707223, 0.578729, 0.703617), std=(0.211883, 0.230117, 0.177517), interpolation="bilinear"
)
LUNIT = InputSpec(  # E, lunit.py; which interpolation is not said there: bicubic is timm's for these networks
    side_px=224, mean=(0.70322989, 0.53606487, 0.66096631), std=(0.21716536, 0.26081574, 0.20723464)
)
BILINEAR = InputSpec(side_px=224, mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bilinear")
BICUBIC = InputSpec(side_px=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
KAIKO = InputSpec(side_px=224, mean=HALF, std=HALF, interpolation="bilinear")  # T, K
SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
NO_DERIVATIVES = "CC-BY-NC-ND-4.0"


@dataclass(frozen=True)
class Row:
    """A foundation model.

    Attributes:
        repository: on the hub.
        network: timm's name of the architecture; "": as the repository's config.json says.
        input: what it wants to see.
        feature_dim: length of a feature vector.
        millions: of parameters; None: as the repository's config.json says.
        licence: of the weights.
        source: of the figures, see the module's docstring.
        arguments: of the construction, as JSON.
        pooling: see `NetworkSpec`.
        mpp: microns per pixel it was trained at, or is run at by the source.
        precision: at which the source runs it.
        gated: whether the hub asks for an account that was let in.
        may_be_passed_on: whether the licence lets others have the weights or what was made from them; None: read it.
        revision: the commit; None: main, whose commit is noted when it is fetched.
    """

    repository: str
    network: str
    input: InputSpec
    feature_dim: int
    millions: float | None
    licence: str
    source: str
    arguments: dict[str, Any] = field(default_factory=dict)
    pooling: Literal["own", "class_and_mean"] = "own"
    mpp: tuple[float, ...] = (0.5,)
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    gated: bool = True
    may_be_passed_on: bool | None = None
    revision: str | None = None


def _kaiko(repository: str, network: str, feature_dim: int, millions: float, **others: Any) -> Row:
    """Return a row of Kaiko's ViTs. Source: T, K; licence and commits: H."""
    named = f"1aurent/{repository}.kaiko_ai_towards_large_pathology_fms"
    common = {"precision": "fp32", "gated": False, "licence": "Kaiko non-commercial", "source": "T, K, H"}
    return Row(named, network, KAIKO, feature_dim, millions, **{**common, **others})


def _lunit(patch_px: int, millions: float, revision: str | None) -> Row:
    """Return a row of Lunit's DINO ViT-S. Source: E (mean, deviation, construction), T (patches of 8 px); licence, commit: H."""
    return Row(
        f"1aurent/vit_small_patch{patch_px}_224.lunit_dino", f"vit_small_patch{patch_px}_224",
        LUNIT, 384, millions, "Lunit non-commercial", "E, T, H",
        precision="fp32", gated=False, revision=revision,
    )  # fmt: skip


# Source: T for construction, resizing, precision; E has the same arguments. T's README: features, licence, --mag 20.
UNI2 = {
    "img_size": 224, "patch_size": 14, "depth": 24, "num_heads": 24, "init_values": 1e-5, "embed_dim": 1536,
    "mlp_ratio": 2.66667 * 2, "no_embed_class": True, "reg_tokens": 8, **SWIGLU,
}  # fmt: skip
VIRCHOW = {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", **SWIGLU}
GIGAPATH = {"img_size": 224, "patch_size": 16, "embed_dim": 1536, "depth": 40, "num_heads": 24, "mlp_ratio": 5.33334}
H_OPTIMUS_ARGUMENTS = {"img_size": 224, "init_values": 1e-5, "global_pool": "token"}

REGISTRY: dict[str, Row] = {
    "uni": Row(
        "MahmoodLab/UNI", "vit_large_patch16_224", BILINEAR, 1024, 303.4, NO_DERIVATIVES, "T, E",
        {"img_size": 224, "patch_size": 16, "init_values": 1e-5}, may_be_passed_on=False,
    ),
    "uni2-h": Row(
        "MahmoodLab/UNI2-h", "vit_giant_patch14_224", BILINEAR, 1536, 681.4, NO_DERIVATIVES, "T, E", UNI2,
        precision="bf16", may_be_passed_on=False,
    ),
    "virchow": Row(
        "paige-ai/Virchow", "vit_huge_patch14_224", BICUBIC, 2560, 631.2, "Apache-2.0", "T, H", VIRCHOW, "class_and_mean",
        may_be_passed_on=True,
    ),
    # four register tokens stand between class token and patches (T: patches from the sixth token on)
    "virchow2": Row(
        "paige-ai/Virchow2", "vit_huge_patch14_224", BICUBIC, 2560, 631.2, NO_DERIVATIVES, "T, H, V",
        {**VIRCHOW, "reg_tokens": 4}, "class_and_mean", mpp=(0.25, 0.5, 1.0, 2.0), may_be_passed_on=False,
    ),
    # its publisher resizes tiles to 256 px and cuts the middle 224 px out; here a whole patch is seen: tile at 224 px
    "prov-gigapath": Row(
        "prov-gigapath/prov-gigapath", "vit_giant_patch14_dinov2", BICUBIC, 1536, 1135.0, "Apache-2.0", "T", GIGAPATH,
        may_be_passed_on=True,
    ),
    "h-optimus-0": Row(
        "bioptimus/H-optimus-0", "vit_giant_patch14_reg4_dinov2", H_OPTIMUS,
        1536, 1134.8, "Apache-2.0", "T, H", H_OPTIMUS_ARGUMENTS, may_be_passed_on=True,
        revision="d7e1f8884c292f1ff581e4b5de73a2cf9f904967",  # H: "Add model"; later commits touch the README
    ),
    "h-optimus-1": Row(
        "bioptimus/H-optimus-1", "vit_giant_patch14_reg4_dinov2", H_OPTIMUS,
        1536, 1134.8, NO_DERIVATIVES, "T, H", H_OPTIMUS_ARGUMENTS, may_be_passed_on=False,
    ),
    "kaiko-vits16": _kaiko("vit_small_patch16_224", "vit_small_patch16_224", 384, 21.7),
    "kaiko-vits8": _kaiko("vit_small_patch8_224", "vit_small_patch8_224", 384, 21.7),
    "kaiko-vitb16": _kaiko(
        "vit_base_patch16_224", "vit_base_patch16_224", 768, 85.8, revision="797c524a94c7fdae8ea33064d0ac6966ed8956bb"
    ),
    "kaiko-vitb8": _kaiko(
        "vit_base_patch8_224", "vit_base_patch8_224", 768, 85.8, revision="a4eb74de76274a5f3fe8260841a1b07a90930f43"
    ),
    # its position embedding is of 518 px, and is interpolated (T)
    "kaiko-vitl14": _kaiko(
        "vit_large_patch14_reg4_224", "vit_large_patch14_reg4_dinov2", 1024, 304.4,
        arguments={"img_size": 518, "dynamic_img_size": True}, revision="d86df45eccdb957aa7869bab7d11f8e158dcbda2",
    ),
    # T pools as the class token alone unless asked, its README and AtlasPatch 31146af count 3072: class token and mean
    "midnight": Row(
        "kaiko-ai/midnight", "", KAIKO, 3072, None, "MIT", "T, H", pooling="class_and_mean", gated=False, may_be_passed_on=True,
    ),
    "phikon-v2": Row(
        "owkin/phikon-v2", "", BILINEAR, 1024, None, "Owkin non-commercial", "T, H", precision="fp32", gated=False,
    ),
    "lunit-vits16": _lunit(16, 21.7, None),
    "lunit-vits8": _lunit(8, 21.7, "c23bc01cfbe022bc1f2a8a9306125a07818e4eb4"),
}  # fmt: skip


def spec_of_row(name: str) -> NetworkSpec:
    """Return the description of a foundation model by its short name."""
    row = REGISTRY[name]
    return NetworkSpec(
        name=name,
        source="timm",
        network=row.network,
        arguments=row.arguments,
        pooling=row.pooling,
        input=row.input,
        mpp=row.mpp,
        licence=row.licence,
        may_be_passed_on=row.may_be_passed_on,
    )
