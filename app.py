"""Starts the page: flags -> page -> server; the default model is loaded meanwhile."""

import argparse
import contextlib
import importlib.util
import os

from sage.imports import many_imports

# Otherwise a start begins with notices, and a long prompt is repeated in the log.
os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"} | os.environ
with many_imports():
    with contextlib.suppress(ImportError):
        import spaces  # noqa: F401  (Hugging Face's GPU lease; it must come before torch)
    from sage.jobs.models import available_models, device_of, load_model, zero_gpu
    from sage.sd.precision import PRECISIONS
    from sage.ui.demo import build_demo, launch_settings
    from sage.ui.server.start import block, prepare_process
    from sage.ui.shelf import Shelf


def parse_flags() -> argparse.Namespace:
    """Command line of the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder or hub id of a Stable Diffusion class model")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="of the networks")
    parser.add_argument("--host", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="public link through gradio.live")
    parser.add_argument("--proxy", action="store_true", help="believe a proxy's X-Forwarded-*")
    parser.add_argument("--mcp", action="store_true", help="offer the endpoints as MCP tools too")
    flags = parser.parse_args()
    try:
        device_of(flags.device)
    except ValueError as error:
        parser.error(str(error))
    if flags.mcp and importlib.util.find_spec("mcp") is None:
        parser.error("--mcp needs gradio's extra: pip install 'gradio[mcp]'")
    return flags


def main() -> None:
    """Serves the page until interrupted; whoever renders first waits for the default model."""
    flags = parse_flags()
    prepare_process()
    how = {"device": flags.device, "precision": flags.precision}
    shelf = Shelf(available_models(flags.model), lambda spec: load_model(spec, **how))
    demo = build_demo(shelf)
    if zero_gpu():  # there, models must be in place before the server starts
        shelf.warm_up()
    where = {"server_name": flags.host, "server_port": flags.port, "share": flags.share}
    own = launch_settings(flags.proxy, flags.host)
    demo.launch(**where, mcp_server=flags.mcp or None, prevent_thread_lock=True, **own)
    shelf.warm_up_meanwhile()  # the page answers
    block(demo)


if __name__ == "__main__":
    main()
