"""Serves the page in a process of its own, so that its time and memory can be measured.

python -m tests.ui.serve MODEL_FOLDER    one model from a folder; prints the address
python -m tests.ui.serve                 the built-in model
"""

import sys
import threading

from sage.imports import many_imports

with many_imports():
    from sage.jobs.models import ModelSpec, available_models, load_model
    from sage.sd.model_settings import ModelSettings
    from sage.ui.demo import build_demo, launch_settings
    from sage.ui.server.start import prepare_process
    from sage.ui.shelf import Shelf


def main() -> None:
    """Serves until standard input is closed, so that no process outlives its test."""
    prepare_process()
    specs = available_models(None)[:1]
    if len(sys.argv) > 1:
        settings = ModelSettings.read(sys.argv[1])
        specs = [ModelSpec("tiny", "Tiny", sys.argv[1], settings=settings)]

    def load(spec):
        model = load_model(spec, "cpu")
        model.pipe.set_progress_bar_config(disable=True)
        return model

    shelf = Shelf(specs, load)
    demo = build_demo(shelf)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_settings())
    shelf.get(shelf.default.key)
    print(url.rstrip("/"), flush=True)
    threading.Thread(target=demo.block_thread, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
