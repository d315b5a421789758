"""Networks are built by one thread at a time.

While diffusers, transformers, accelerate or PEFT build a network, they exchange functions and
settings of torch for the whole process: `nn.Module.register_parameter`, `torch.nn.init.*`, the
default dtype. A second thread that builds one meanwhile gets layers without values; and if both
exchange them, what the second puts back is what the first had put there, for good.
"""

from threading import RLock

BUILDING = RLock()  # held by whatever loads a model, an encoder or an adapter
