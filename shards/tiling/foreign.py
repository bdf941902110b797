"""What a file is that OpenSlide does not know: an ordinary image, or something that must not be taken for the slide.

A scanner's file of which the pixels lie elsewhere (.mrxs, .vsi, .vms) is often a small JPEG or TIFF: a preview, which
the reader of plain images would take for the slide. A download that failed is a web page, a pointer or an archive.
"""

from pathlib import Path

from shards.errors import InputError
from shards.tiling.tiff_header import is_cut_short

HEAD_BYTES = 4096
TEXT_SHOWN = 60

# Suffixes of scanners' and microscopes' files: OpenSlide's own, and those of vendors that it does not read.
VENDOR_SUFFIXES = {
    ".svs", ".afi", ".ndpi", ".ndpis", ".vms", ".vmu", ".mrxs", ".scn", ".lif", ".bif", ".svslide", ".czi", ".zvi", ".lsm",
    ".vsi", ".ets", ".oir", ".oib", ".i2i", ".isyntax", ".i2syntax", ".dcm", ".dicom", ".qptiff", ".nd2", ".tmap", ".kfb",
    ".kfbf", ".sdpc", ".dyqx", ".tron", ".mds", ".mdsx", ".hdx", ".slx", ".ims", ".rts", ".zsp",
}  # fmt: skip
# Their first TIFF directory is a label or an overview, or they are no TIFF at all: only the vendor's driver finds the scan.
# A generic pyramid named .svs or .ndpi has its scan first, as those have.
NEVER_GENERIC = VENDOR_SUFFIXES - {".svs", ".ndpi", ".qptiff"}

CONVERT = "Convert it to a tiled pyramid (OME-TIFF, TIFF or DICOM), with bfconvert or the vendor's program"
MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a pointer of git-LFS, the slide itself is not here", "Run git lfs pull there"),
    (0, b"/annex/objects/", "a pointer of git-annex, the slide itself is not here", "Run git annex get there"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an OLE file such as a Zeiss ZVI, which OpenSlide does not read", CONVERT),
    (0, b"\xda\xce\xbe\x0a", "a Nikon ND2, which OpenSlide does not read", CONVERT),
    (0, b"\x89HDF\r\n", "an HDF5 file, which is no slide", CONVERT),
    (0, b"<DataObject", "a Philips iSyntax, which OpenSlide does not read", CONVERT),
    (128, b"DICM", "a DICOM file that is no whole-slide image that OpenSlide reads", CONVERT),
    (0, b"SQLite format 3", "an SQLite database, and not a Sakura slide", "Give the slide itself"),
    (0, b"%PDF", "a PDF document", "Give the slide itself"),
    (0, b"\x1f\x8b", "a gzip archive", "Unpack it"),
    (0, b"PK\x03\x04", "a zip archive", "Unpack it"),
    (0, b"PK\x05\x06", "an empty zip archive", "Download the slide again"),
    (0, b"BZh", "a bzip2 archive", "Unpack it"),
    (0, b"\xfd7zXZ\x00", "an xz archive", "Unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", "Unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it"),
    (0, b"Rar!\x1a\x07", "a rar archive", "Unpack it"),
    (257, b"ustar", "a tar archive", "Unpack it"),
)
IMAGES = ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG", "PNG"), (b"II*", "plain TIFF"), (b"MM\x00*", "plain TIFF"))
TIFF_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


def is_tiff(path: Path) -> bool:
    """Does the file begin as a TIFF?"""
    with open(path, "rb") as file:
        return file.read(4) in TIFF_MAGIC


def refuse_foreign(path: Path, vendor: str | None) -> None:
    """Refuse a file that would be read as something else than the slide that its name promises.

    Args:
        path: the file, which is there.
        vendor: as OpenSlide detects it; None: it doesn't know the format.

    Raises:
        InputError: what the file is, and what to do.
    """
    suffix = path.suffix.lower()
    if vendor is None:
        kind = kind_of(path)
        if kind is not None:
            raise InputError(f"{path}: {kind}")
        if suffix in VENDOR_SUFFIXES:
            raise InputError(f"{path}: {_why_no_slide(path, suffix)}")
    elif vendor == "generic-tiff" and suffix in NEVER_GENERIC:
        raise InputError(f"{path}: {_why_no_slide(path, suffix)}")


def kind_of(path: Path) -> str | None:
    """Return what a file is that is neither a slide nor an image, with the remedy; None: its beginning does not tell."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        return "an empty file (0 bytes). Copy the file anew"
    for offset, magic, what, remedy in MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return f"{what}. {remedy}"
    if not head.strip(b"\0"):
        return "it begins with zeros only: a download or copy that did not finish. Copy the file anew"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lower = text[:256].lower()
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in lower:
        return "a web page, not a slide: the download ended at a login or an error. Download the slide itself"
    if text[:1] in (b"{", b"["):
        return f"a JSON text, such as a server's error ({_shown(text)}). Download the slide itself"
    if text[:1] == b"<":
        return f"an XML text, such as a server's error ({_shown(text)}). Download the slide itself"
    return None


def text_of(path: Path) -> str | None:
    """Return how a file begins if it is a text, else None."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    is_text = all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head)
    return _shown(head) if head and is_text else None


def _why_no_slide(path: Path, suffix: str) -> str:
    folder = path.with_suffix("")
    if suffix == ".mrxs":
        what = f"has no Slidedat.ini that can be read in its folder {folder.name}/"
        if not folder.is_dir():
            what = f"its folder {folder.name}/ is missing beside it"
        return f"only the preview of a MIRAX slide: {what}. Copy the folder, too"
    if suffix == ".vsi":
        return (
            "an Olympus .vsi holds label and overview only; the scan lies in the folder "
            f"_{folder.name}_/, which OpenSlide does not read. {CONVERT}"
        )
    if suffix in (".vms", ".vmu"):
        return "a Hamamatsu index whose images are missing beside it, or are not its own. Copy all files of the slide"
    if (text := text_of(path)) is not None:
        return f"a text, not a slide ({text}). Download the slide itself"
    if is_tiff(path) and is_cut_short(path):
        return "a TIFF that is damaged or cut short. Copy the file anew"
    with open(path, "rb") as file:
        head = file.read(8)
    image = next((f" but a {name} image" for magic, name in IMAGES if head.startswith(magic)), "")
    return (
        f"OpenSlide does not know it as a {suffix} slide{image}: a preview, a label, or a kind of it that OpenSlide does not "
        f"read. Give the slide itself with all its files. Or: {CONVERT}"
    )


def _shown(text: bytes) -> str:
    words = " ".join(text[: 4 * TEXT_SHOWN].decode("utf-8", "replace").split())
    return repr(words if len(words) <= TEXT_SHOWN else f"{words[:TEXT_SHOWN]}...")
