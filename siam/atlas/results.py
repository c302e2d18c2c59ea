"""The page of a search's results: one self-contained file."""

import base64
from pathlib import Path
from typing import Any

from markupsafe import Markup

from siam.system.files import write_atomically, writing
from siam.system.names import shown

_PAGE = Markup("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Search results</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(9em, 1fr)); gap: 1em }}
figure {{ margin: 0 }}
img, .none {{ width: 100%; aspect-ratio: 1; object-fit: contain; background: #8882; border-radius: 4px }}
header figure {{ width: 9em }}
figcaption {{ font-size: 13px; overflow-wrap: anywhere }}
</style>
<header>{query}</header>
<main>{results}</main>
</html>
""")
_FIGURE = Markup("<figure>{picture}<figcaption>{caption}</figcaption></figure>\n")
_PICTURE = Markup('<img alt="" src="data:image/jpeg;base64,{data}">')
_NO_PICTURE = Markup('<div class="none"></div>')


def write_results(
    file: str | Path, query: bytes | None, results: list[dict[str, Any]], pictures: list[bytes | None]
) -> None:
    """Write the page. query, pictures: JPEG thumbnails; None for images without. Raises RunError."""
    captions = [
        " · ".join(filter(None, [f"{one['cosine']:.3f}", one["path"], one["label"]])) for one in results
    ]
    figures = [_figure(*pair) for pair in zip(pictures, captions, strict=True)]
    page = _PAGE.format(query=_figure(query, "Query"), results=Markup("").join(figures))
    with writing(file):
        write_atomically(Path(file).expanduser(), lambda opened: opened.write(page.encode()))


def _figure(picture: bytes | None, caption: str) -> Markup:
    inner = _NO_PICTURE if picture is None else _PICTURE.format(data=base64.b64encode(picture).decode())
    return _FIGURE.format(picture=inner, caption=shown(caption))
