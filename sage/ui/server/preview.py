"""What others see of the page before they open it: title, sentence and picture of a link preview.

Gradio writes its own into the page, twice; they are replaced. Knows bytes of HTML and nothing else.
"""

import re
from html import escape

TITLE = "SAGE Studio"
SENTENCE = (
    "Similar prompts share their first denoising steps. Move the branch point and see what that "
    "saves, and what it costs."
)
_OURS = re.compile(rb'\s*<meta\s+(?:property|name)="(?:og|twitter):[^>]*/?>', re.DOTALL)
_ROOT = re.compile(rb'"root":\s*"(https?://[^"]+)"')


def own_preview(page: bytes, picture: str) -> bytes:
    """The page with our preview in place of Gradio's.

    Args:
        page: HTML as Gradio renders it.
        picture: Path of the picture below the page's address.
    """
    found = _ROOT.search(page)
    root = found.group(1).decode() if found else ""
    named = {
        "og:type": "website",
        "og:title": TITLE,
        "og:description": SENTENCE,
        "og:image": f"{root}{picture}",
        "twitter:card": "summary_large_image",
        "twitter:title": TITLE,
        "twitter:description": SENTENCE,
        "twitter:image": f"{root}{picture}",
    }
    tags = "".join(
        f'<meta {"name" if name.startswith("tw") else "property"}="{name}" '
        f'content="{escape(value)}" />'
        for name, value in named.items()
    )
    return _OURS.sub(b"", page).replace(b"</head>", tags.encode() + b"</head>", 1)
