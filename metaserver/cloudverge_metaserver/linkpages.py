"""The pages of public links, and the headers they are served with. Pure.

For any browser: no script, nothing from elsewhere, readable without style and by a screen reader. All that opens
nothing gets ``ABSENT``, byte for byte the same. Nothing may be kept by caches, shown in frames, found by search
engines, or betray the address (which is the secret) to other sites.
"""

import base64
import hashlib
from html import escape
from typing import Final
from urllib.parse import quote

_STYLE: Final = (
    "body{font:1.1rem/1.6 system-ui,sans-serif;max-width:34rem;margin:12vh auto;padding:0 1rem;"
    "color:#1a1a1a;background:#fff}h1{font-size:1.4rem;overflow-wrap:anywhere}"
    "a,button{display:inline-block;font:inherit;padding:.5rem 1rem;border:2px solid #0b57a4;"
    "border-radius:.3rem;background:#0b57a4;color:#fff;text-decoration:none}"
    "a:focus,button:focus,input:focus{outline:3px solid #e08a00;outline-offset:2px}"
    "input{font:inherit;padding:.4rem;border:2px solid #555;border-radius:.3rem}label{display:block}"
    "@media(prefers-color-scheme:dark){body{color:#eee;background:#181818}}"
)
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")

HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def _page(title: str, body: str) -> bytes:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    ).encode(errors="replace")


def file_page(secret: str, name: str, size_bytes: int) -> bytes:
    """What a link shows: the file's name and size, and where to download it."""
    return _page(
        name,
        f"<h1>{escape(name)}</h1>\n<p>{escape(size_text(size_bytes))}</p>\n"
        f'<p><a href="/l/{quote(secret)}/file" download>Download</a></p>',
    )


def password_page(secret: str, complaint: str = "") -> bytes:
    """The form that asks for a link's password; ``complaint`` says what was wrong with the last one."""
    said = f'<p role="alert"><strong>{escape(complaint)}</strong></p>\n' if complaint else ""
    return _page(
        "A password is needed",
        f"<h1>This link needs a password</h1>\n{said}"
        f'<form method="post" action="/l/{quote(secret)}">\n'
        '<p><label for="password">Password</label>\n'
        '<input id="password" name="password" type="password" autocomplete="off" required autofocus></p>\n'
        "<p><button>Open</button></p>\n</form>",
    )


def trouble_page(title: str, text: str) -> bytes:
    """Why nothing can be shown now, and what to do."""
    return _page(title, f"<h1>{escape(title)}</h1>\n<p>{escape(text)}</p>")


ABSENT: Final = trouble_page(
    "Nothing here",
    "This link does not exist, or it has ended. Ask who gave it to you for another.",
)


def size_text(size_bytes: int) -> str:
    """A size for people, with the exact one."""
    value, unit = float(size_bytes), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    exact = f"{size_bytes:,} bytes" if size_bytes != 1 else "1 byte"
    return f"{value:.1f} {_UNITS[unit]} ({exact})" if unit else exact


def shown_name(name: str) -> str:
    """A file's name without what could mislead: no folders, no control or direction marks."""
    last = name.rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:255] or "file"


def disposition(name: str) -> str:
    """Content-Disposition of a download: a name for old programs, and the true one (RFC 6266, 8187)."""
    plain = "".join(each if " " <= each <= "~" and each not in '"\\%' else "_" for each in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
