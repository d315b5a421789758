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
        files_bytes: Room for the files of all runs and uploads; beyond it the oldest go.
        sweep_seconds: How often files and messages that nobody fetches are looked for.
        upload_bytes: Largest upload; the page takes records only.
        body_bytes: Largest body of any other request.
        pages: Renderings of the page's HTML and configuration that are kept.
        scripts: Scripts of the page that are kept compressed, and their largest size in bytes.
        line: Runs that may wait for their turn, of all clients together.
        line_of_address: Of those, runs from one network address: the rest is for others.
        line_of_client: Of those, runs of one session, or of one address without a session.
        line_seconds: Seconds of work that may wait; a single run is never too long.
        unheard: Runs whose answer nobody reads yet; beyond it the oldest is dropped.
        unheard_seconds: How long a run waits for somebody to read its answer.
        unread_messages: Messages on their way to one reader; with more, it is taken to be gone.
        streams: Streams that are open at once; a page has up to two, its heartbeat and answers.
        streams_of_address: Of those, streams of one network address: the rest is for others.
        stream_retry_seconds: When to ask again for one; an answer is kept for longer.
        cheap: Cheap calls that are worked on at once, and the threads they have.
        cheap_line: Cheap calls that may wait.
        clients: Clients whose use is remembered.
        retry_seconds: After this long a model that could not be loaded is tried again.
        memory_seconds: After this long a client's use counts half.
    """

    sessions: int = 100
    session_seconds: int = HOUR
    turns: int = 1000
    store_bytes: int = 192 * MEBIBYTE
    lease_store_bytes: int = 512 * MEBIBYTE
    file_seconds: int = HOUR
    files_bytes: int = 1024 * MEBIBYTE
    sweep_seconds: float = 10.0
    upload_bytes: int = MEBIBYTE
    body_bytes: int = MEBIBYTE
    pages: int = 8
    scripts: tuple[int, int] = (96, 384 * 1024)
    line: int = 16
    line_of_address: int = 12
    line_of_client: int = 4
    line_seconds: float = 120.0
    unheard: int = 32
    unheard_seconds: float = 15.0
    unread_messages: int = 400
    streams: int = 400
    streams_of_address: int = 200
    stream_retry_seconds: float = 5.0
    cheap: int = 4
    cheap_line: int = 500
    clients: int = 1000
    memory_seconds: float = 120.0
    retry_seconds: float = 20.0

    @property
    def queue(self) -> int:
        """Everything that may wait in gradio's queue."""
        return self.cheap_line + self.line + self.unheard


BOUNDS = Bounds()
