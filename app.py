"""Starts the page: flags -> models -> page -> server."""

import argparse
import contextlib
import os

# Otherwise every start begins with a notice about an image library that is not needed.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401  (Hugging Face's GPU lease; it must come before torch)

from sage.models import available_models, load_model
from sage.ui.demo import build_demo, launch_settings
from sage.ui.shelf import Shelf


def parse_flags() -> argparse.Namespace:
    """Command line of the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder or hub id of a Stable Diffusion class model")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--host", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="public link through gradio.live")
    return parser.parse_args()


def main() -> None:
    """Loads the default model, warms it up, and serves the page until interrupted."""
    flags = parse_flags()
    shelf = Shelf(available_models(flags.model), lambda spec: load_model(spec, flags.device))
    default = shelf.get(shelf.default.key)
    for rows in (1, 2, 4):  # what the examples need, so that the first visitor's run is no slower
        default.pipe.warm_up(rows)
    build_demo(shelf).launch(
        server_name=flags.host,
        server_port=flags.port,
        share=flags.share,
        **launch_settings(),
    )


if __name__ == "__main__":
    main()
