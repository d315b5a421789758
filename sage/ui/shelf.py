"""The models a visitor may pick, each loaded once, when it is first asked for.

A visitor names a model by its key only; a folder or a repository id from outside never gets here.
"""

from collections.abc import Callable, Sequence
from threading import Lock

from sage.models import LoadedModel, ModelSpec


class Shelf:
    """Loaded models by key.

    Args:
        specs: Models that may be picked; the first is the default.
        load: Loads one, e.g. `sage.models.load_model`.
    """

    def __init__(
        self, specs: Sequence[ModelSpec], load: Callable[[ModelSpec], LoadedModel]
    ) -> None:
        self.specs = tuple(specs)
        self._load = load
        self._loaded: dict[str, LoadedModel] = {}
        self._lock = Lock()

    @property
    def default(self) -> ModelSpec:
        """The model a visitor gets who does not choose."""
        return self.specs[0]

    def get(self, key: str) -> LoadedModel:
        """The model of a key, loaded now if it is not yet.

        Raises:
            ValueError: If the key is unknown or the model cannot be loaded.
        """
        spec = next((spec for spec in self.specs if spec.key == key), None)
        if spec is None:
            known = ", ".join(spec.key for spec in self.specs)
            raise ValueError(f"Unknown model {str(key)[:60]!r}; available: {known}.")
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = self._load_or_explain(spec)
            return self._loaded[key]

    def _load_or_explain(self, spec: ModelSpec) -> LoadedModel:
        try:
            return self._load(spec)
        except (OSError, RuntimeError, ImportError) as error:  # no file, no hub, no memory
            reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else "no reason"
            raise ValueError(f"{spec.title} cannot be loaded here: {reason}") from error
