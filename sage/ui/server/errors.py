"""What a visitor is told when something fails: a sentence, and an id that finds the log's line.

Errors that a visitor or the machine can do something about have their own sentence. Any other is
our fault: it is logged with its traceback under a short id, and the id is all that leaves the
process; no path and no value does.
"""

import errno
import logging
import re
import secrets
from typing import Any

import torch
from gradio.exceptions import Error
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sage.ui.server.logs import kind_of, one_line

log = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT)
LONGEST = 400  # characters of a sentence
MEMORY = "Not enough memory for this: use fewer prompts or a smaller model."
DISK = "The server's disk is full, so the files of this run could not be written."
NUMBERS = "The model produced numbers that are not finite; nothing of this run was kept."
MODEL_FILE = "A file of this model is damaged or incomplete; download it again."
GONE = "Nobody read the answer, so the run was ended."
BAD_REQUEST = "The request does not have the form that this address needs."
BAD_VALUES = "The values do not fit what this endpoint takes, as /gradio_api/info describes it."
OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|can't allocate memory|cannot allocate memory|"
    r"CUBLAS_STATUS_ALLOC_FAILED|bad_alloc|failed to allocate",
    re.IGNORECASE,
)
NOT_FINITE = re.compile(r"\bnan\b|\binf\b|not finite|non-finite", re.IGNORECASE)
CUT_FILE = re.compile(
    r"Unable to load weights from checkpoint|HeaderTooLarge|header too (large|small)|"
    r"IncompleteMetadata|MetadataIncomplete|"
    r"PytorchStreamReader|unexpected end of (file|data)|corrupt|truncated|not a zip",
    re.IGNORECASE,
)
PATH = re.compile(
    r"file://\S+|~/[^\s'\",;:)]*|"
    r"(?:[A-Za-z]:\\|(?<![\w/:.])/)[\w.@+-]+[/\\][^\s'\",;:)]*"
)


def explain(error: BaseException, what: str = "This") -> str:
    """The sentence for a visitor; an error that is our fault is logged.

    Args:
        error: What was raised.
        what: What failed, as a sentence begins.
    """
    known = _known(error)
    if known is not None:
        if not isinstance(error, (ValueError, Error, UnheardError)):
            log.warning("%s", kind_of(error))
        return tidy(known)
    key = secrets.token_hex(4)
    log.error("error %s: %s failed", key, what.lower(), exc_info=error)
    return f"{what} failed, and the fault is ours (error {key}, as in the server's log)."


def _known(error: BaseException) -> str | None:
    """The sentence for an error that is nobody's fault here, or the asker's own."""
    chain = [error, *filter(None, (error.__cause__, error.__context__))]
    rules = (
        (any(map(_is_out_of_memory, chain)), MEMORY),
        (any(isinstance(e, OSError) and e.errno in FULL for e in chain), DISK),
        (isinstance(error, Error), str(getattr(error, "message", ""))),
        (_is_sentence(error), str(error)),
        (_is_not_finite(error), NUMBERS),
        (is_cut_file(error), MODEL_FILE),
        (isinstance(error, UnheardError), GONE),
    )
    return next((sentence for applies, sentence in rules if applies), None)


def _is_out_of_memory(error: BaseException) -> bool:
    named = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return named or (isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error))))


def _is_sentence(error: BaseException) -> bool:
    """Whether an error is one of this project's, whose words are for visitors."""
    own = type(error).__module__.partition(".")[0] == "sage"
    return isinstance(error, ValueError) and (own or _raised_here(error))


def _raised_here(error: BaseException) -> bool:
    """Whether the last line that ran was ours: libraries raise ValueErrors of their own."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else "sage"
    return type(error) is ValueError and module.partition(".")[0] in ("sage", "tests", "__main__")


def _is_not_finite(error: BaseException) -> bool:
    words = isinstance(error, (RuntimeError, ArithmeticError)) and NOT_FINITE.search(str(error))
    return isinstance(error, FloatingPointError) or bool(words)


def is_cut_file(error: BaseException) -> bool:
    """Whether an error says that a file of weights is not whole."""
    chain = [error, *filter(None, (error.__cause__, error.__context__))]
    if any(type(e).__name__ == "SafetensorError" for e in chain):
        return True
    reading = isinstance(error, (OSError, RuntimeError, EOFError))
    return reading and any(CUT_FILE.search(str(e)) for e in chain)


def tidy(sentence: str) -> str:
    """A sentence on one line, of limited length, without paths of the server."""
    line = one_line(PATH.sub("…", str(sentence)))
    line = line if len(line) <= LONGEST else line[: LONGEST - 2] + " …"
    return line or "This failed, and no reason was given."


def as_client_error(error: BaseException) -> Error:
    """An error as gradio hands it to clients: with its sentence, and without a traceback."""
    sentence = BAD_VALUES if _came_in(error) else explain(error, "The call")
    return Error(sentence, title=getattr(error, "title", "Error"), print_exception=False)


def _came_in(error: BaseException) -> bool:
    """Whether gradio could not read the values it was sent: their number, or their kind."""
    trace, names = error.__traceback__, set()
    while trace is not None:
        names.add(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return bool(names & {"preprocess_data", "validate_inputs"}) and not isinstance(error, Error)


class UnheardError(Exception):
    """Nobody reads the answer to a run any more, so it ends."""


class Explaining:
    """ASGI middleware: whatever a route raises becomes an answer with a sentence.

    Args:
        app: The routes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on; see the class."""
        started = replaced = False

        async def note(message: Message) -> None:
            nonlocal started, replaced
            begins = message["type"] == "http.response.start"
            started = started or begins
            if begins and message["status"] == 422:  # a list of fields, and what was sent
                replaced = True
                await refusal(422, BAD_REQUEST)(scope, receive, send)
            elif not replaced:
                await send(message)

        try:
            await self.app(scope, receive, note)
        except Exception as error:
            if started:  # of a stream of answers, whose last one says what is wrong
                _log_late(error)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await answer(error)(scope, receive, send)


def answer(error: BaseException) -> JSONResponse:
    """The response to a request whose route raised."""
    if isinstance(error, HTTPException):
        return refusal(error.status_code, str(error.detail), error.headers)
    if isinstance(error, (KeyError, ValueError, TypeError, IndexError, AttributeError)):
        log.warning("a request was not understood: %s", kind_of(error))
        return refusal(400, BAD_REQUEST)
    return refusal(500, explain(error, "The request"))


def refusal(status: int, sentence: str, headers: Any = None) -> JSONResponse:
    """A response that says why, as gradio's own do (`detail`) and as its clients read (`error`)."""
    words = tidy(sentence)
    return JSONResponse({"detail": words, "error": words}, status, dict(headers or {}))


def _log_late(error: BaseException) -> None:
    cause = error.__cause__ or error.__context__
    if not isinstance(cause or error, HTTPException):
        log.warning("a stream of answers ended early: %s", kind_of(error))
