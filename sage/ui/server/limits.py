"""Every bound of the served page, in one place: what is kept, for how long, and how much at once.

A number that limits memory, time or people stands here and nowhere else; `.github/PROMISES.md`
says what follows from it and which test holds it.
"""

from dataclasses import dataclass

MEBIBYTE = 2**20
HOUR = 3600


@dataclass(frozen=True)
class Bounds:
    """Bounds of one process that serves the page.

    Attributes:
        sessions: Visitors whose state is remembered; beyond it the longest silent one's goes.
        session_seconds: How long a closed session's grid or run is remembered.
        turns: Renderings of the page that are announced but have not come up.
        store_bytes: Latents of earlier runs, for all visitors together.
        lease_store_bytes: The same in the process of a leased GPU.
        file_seconds: How long a run's files can be downloaded.
        sweep_seconds: How often files and messages that nobody fetches are looked for.
        upload_bytes: Largest upload; the page takes records only.
        body_bytes: Largest body of any other request.
        pages: Renderings of the page's HTML and configuration that are kept.
    """

    sessions: int = 200
    session_seconds: int = HOUR
    turns: int = 1000
    store_bytes: int = 192 * MEBIBYTE
    lease_store_bytes: int = 512 * MEBIBYTE
    file_seconds: int = HOUR
    sweep_seconds: float = 10.0
    upload_bytes: int = MEBIBYTE
    body_bytes: int = MEBIBYTE
    pages: int = 8


BOUNDS = Bounds()
