"""What a file or folder is, by its name, and why it is left out of a dataset."""

Reason = tuple[str, str]
"""The noun for something left out, in the singular and the plural."""

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
    ".jpe", ".jif", ".jfif", ".pjpeg", ".apng", ".dib", ".avif", ".jp2", ".j2k",
)  # fmt: skip

HIDDEN = "hidden or side file or folder", "hidden or side files and folders"
UNSUPPORTED = "image in an unsupported format", "images in unsupported formats"
TABLES = "table, whose labels are used if passed as DATA", "tables, whose labels are used if passed as DATA"
DATA_FILES = "archive, table or video among the images", "archives, tables and videos among the images"
LINKS = "link to a folder that is already included", "links to folders that are already included"
NO_SUFFIX = "file without a suffix", "files without a suffix"
UNFINISHED = "unfinished download", "unfinished downloads"
BROKEN = "broken link", "broken links"
NOT_FILES = "pipe, socket or device", "pipes, sockets and devices"
OUTSIDE = "member with a path outside the archive", "members with paths outside the archive"
LOCKED = "folder without read permission", "folders without read permission"

_SIDE_FOLDERS = (
    "@eadir", "@recycle", "#recycle", "#snapshot", "@recently-snapshot", "@__thumb", "__macosx",
    "$recycle.bin", "system volume information", "lost+found", "__pycache__",
)  # fmt: skip
"""Folders written by file servers and other tools, some of which hold thumbnails; in lower case."""

_SIDE_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
_UNSUPPORTED = (
    ".heic", ".heif", ".hif", ".jxl", ".jpf", ".jpx", ".jpm", ".j2c", ".jxr", ".psd",
    ".svg", ".eps", ".ai", ".ico", ".icns", ".tga", ".dds", ".exr", ".hdr", ".pcx", ".xcf", ".dng", ".raw",
    ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".dcm", ".nii", ".thm",
)  # fmt: skip
_DATA_FILES = (
    ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".parquet", ".arrow", ".npy", ".npz",
    ".h5", ".hdf5", ".tfrecord", ".mdb", ".mp4", ".avi", ".mov", ".mkv", ".webm",
)  # fmt: skip
_TABLES = (".csv", ".tsv", ".jsonl")
_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".aria2", ".tmp")


def is_side_folder(name: str) -> bool:
    """Return True for hidden folders and for those that file servers and other tools write."""
    return name.startswith(".") or name.lower() in _SIDE_FOLDERS


def is_image(name: str) -> bool:
    """Return True if a file name has the suffix of a supported image format, and is not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def reason(name: str) -> Reason | None:
    """Return why a file that is not an image is left out; None if it is not worth a mention."""
    lower = name.lower()
    if lower in _SIDE_FILES or (name.startswith(".") and lower.endswith((*IMAGE_SUFFIXES, *_UNSUPPORTED))):
        return HIDDEN
    if name.startswith("."):
        return None
    if lower.endswith(_UNSUPPORTED):
        return UNSUPPORTED
    if lower.endswith(_TABLES):
        return TABLES
    if lower.endswith(_UNFINISHED):
        return UNFINISHED
    if "." not in name and not name.isupper():  # README and LICENSE are no images
        return NO_SUFFIX
    return DATA_FILES if lower.endswith(_DATA_FILES) else None
